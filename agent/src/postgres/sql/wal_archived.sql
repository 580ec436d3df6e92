-- What was archived last. Reads only.
SELECT last_archived_wal FROM pg_catalog.pg_stat_archiver
