-- Check of migration 1: raises when its outcome is wrong. Reads only.
DO $check$
BEGIN
    IF (SELECT pg_catalog.count(*) FROM pgaa.local) <> 1 THEN
        RAISE EXCEPTION 'pgaa.local must have exactly one row';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_index AS x
                    WHERE x.indrelid = 'pgaa.heartbeat'::regclass AND x.indisprimary) THEN
        RAISE EXCEPTION 'pgaa.heartbeat has no primary key';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t
                    WHERE t.tgrelid = 'pgaa.heartbeat'::regclass
                      AND t.tgname = 'stamp_arrival' AND t.tgenabled = 'R') THEN
        RAISE EXCEPTION 'the trigger stamp_arrival of pgaa.heartbeat must be ENABLE REPLICA';
    END IF;
END
$check$
