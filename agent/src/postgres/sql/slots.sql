-- Slots of this database that pglogical's plug-in reads. Reads only.
SELECT s.slot_name,
       s.active,
       coalesce(s.wal_status, ''),
       greatest(coalesce(pg_catalog.pg_wal_lsn_diff(
           CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
                ELSE pg_catalog.pg_current_wal_lsn() END,
           s.restart_lsn), 0), 0)::int8,
       coalesce(s.confirmed_flush_lsn, '0/0'),
       s.active_pid
  FROM pg_catalog.pg_replication_slots AS s
 WHERE s.plugin = 'pglogical_output'
   AND s.database = pg_catalog.current_database()
