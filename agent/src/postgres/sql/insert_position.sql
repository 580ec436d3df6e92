-- insert_position
-- Where the next WAL record of this server will begin. Reads only.
SELECT pg_catalog.pg_current_wal_insert_lsn()
