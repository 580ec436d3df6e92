-- The archiver's process; none while it is being started. Reads only.
SELECT a.pid FROM pg_catalog.pg_stat_activity AS a WHERE a.backend_type = 'archiver'
