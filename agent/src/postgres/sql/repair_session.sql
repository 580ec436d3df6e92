-- Makes this session one that mends: what it writes carries the origin $1, which is created when
-- it is missing and never dropped, and is sent to nobody. Two sessions can't share it.
SELECT CASE WHEN pg_catalog.pg_replication_origin_oid($1) IS NULL
            THEN pg_catalog.pg_replication_origin_create($1) END,
       pg_catalog.set_config('session_replication_role', 'replica', false)
