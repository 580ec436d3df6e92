-- The segment of WAL in which all that was written before lies, or the last of it. Reads only.
SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn())
