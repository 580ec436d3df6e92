-- Check of migration 4: raises when its outcome is wrong. Reads only.
DO $check$
BEGIN
    IF (SELECT pg_catalog.count(*) FROM pgaa.log_reader) <> 1 THEN
        RAISE EXCEPTION 'pgaa.log_reader must have exactly one row';
    END IF;
    IF (SELECT pg_catalog.count(*) FROM pg_catalog.pg_index AS x
         WHERE x.indisprimary AND x.indrelid IN (
               'pgaa.conflict_history'::regclass, 'pgaa.conflict_tally'::regclass,
               'pgaa.log_position'::regclass, 'pgaa.origin_node'::regclass)) <> 4 THEN
        RAISE EXCEPTION 'a table of migration 4 has no primary key';
    END IF;
END
$check$
