-- What is left of a mesh in this database; one row a thing. Reads only.
SELECT 'extension pglogical' FROM pg_catalog.pg_extension WHERE extname = 'pglogical'
UNION ALL
SELECT 'schema ' || nspname FROM pg_catalog.pg_namespace WHERE nspname IN ('pgaa', 'pglogical')
UNION ALL
SELECT 'slot ' || slot_name FROM pg_catalog.pg_replication_slots
UNION ALL
SELECT 'origin ' || roname FROM pg_catalog.pg_replication_origin
UNION ALL
SELECT 'commit times' WHERE pg_catalog.current_setting('track_commit_timestamp') = 'on'
