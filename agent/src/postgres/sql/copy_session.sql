-- copy_session
-- Makes this session one that copies: its rows carry the origin $1, which is created when it is
-- missing and never dropped (the number would be given to another). Two sessions can't share it.
-- New files of WAL are not filled with zeros first: a copy writes them once, and whole.
SELECT CASE WHEN pg_catalog.pg_replication_origin_oid($1) IS NULL
            THEN pg_catalog.pg_replication_origin_create($1) END,
       pg_catalog.set_config('session_replication_role', 'replica', false),
       pg_catalog.set_config('synchronous_commit', 'off', false),
       pg_catalog.set_config('wal_init_zero', 'off', false)
