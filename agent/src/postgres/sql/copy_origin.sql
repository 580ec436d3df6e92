-- copy_origin
-- Ties the session to its copy origin, $1.
SELECT pg_catalog.pg_replication_origin_session_setup($1)
