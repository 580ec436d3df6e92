-- One slot: plug-in, database, position, process that reads it. Reads only.
SELECT coalesce(s.plugin::text, ''), coalesce(s.database::text, ''),
       coalesce(s.confirmed_flush_lsn, '0/0'), s.active_pid, coalesce(s.wal_status, '')
  FROM pg_catalog.pg_replication_slots AS s
 WHERE s.slot_name = $1::name
