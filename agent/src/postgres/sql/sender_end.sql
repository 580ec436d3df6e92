-- Ends the process that reads the slot $1, and waits up to 5 s until it is gone. Idempotent.
SELECT pg_catalog.pg_terminate_backend(s.active_pid, 5000)
  FROM pg_catalog.pg_replication_slots AS s
 WHERE s.slot_name = $1::name AND s.active_pid IS NOT NULL
