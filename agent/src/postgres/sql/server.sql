-- What the server is. Reads only; needs nothing of ours to exist.
SELECT pg_catalog.current_setting('server_version_num')::int4,
       pg_catalog.pg_is_in_recovery(),
       (SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c),
       CASE WHEN pg_catalog.pg_is_in_recovery()
            THEN '0/0'
            ELSE pg_catalog.pg_current_wal_flush_lsn()
       END,
       (SELECT e.extversion FROM pg_catalog.pg_extension AS e WHERE e.extname = 'pglogical'),
       pg_catalog.to_regclass('pgaa.heartbeat') IS NOT NULL
