-- Check of migration 2: raises when its outcome is wrong. Reads only.
DO $check$
BEGIN
    IF (SELECT pg_catalog.count(*) FROM pg_catalog.pg_event_trigger AS t
         WHERE t.evtname IN ('pgaa_refuse_change', 'pgaa_refuse_drop')
           AND t.evtenabled = 'O') <> 2 THEN
        RAISE EXCEPTION 'the event triggers pgaa_refuse_change and pgaa_refuse_drop must be there';
    END IF;
    IF NOT (SELECT p.prosecdef FROM pg_catalog.pg_proc AS p
             WHERE p.oid = 'pgaa.refuse_schema_change'::regproc) THEN
        RAISE EXCEPTION 'pgaa.refuse_schema_change must run as its owner';
    END IF;
END
$check$
