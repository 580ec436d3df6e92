-- Ends the segment of WAL that is being written, so that it can be archived, and says which segment
-- that was. Repeating it without writes between does nothing.
SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_switch_wal())
