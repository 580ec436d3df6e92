-- The slot that remembers this node's own deletes, $1: whether it can still be read, how far it
-- was read, and how far the WAL is on disk. Reads only.
SELECT coalesce(s.wal_status, '') NOT IN ('lost', 'unreserved'),
       coalesce(s.confirmed_flush_lsn, '0/0'),
       pg_catalog.pg_current_wal_flush_lsn()
  FROM pg_catalog.pg_replication_slots AS s
 WHERE s.slot_name = $1 AND s.database = pg_catalog.current_database()
