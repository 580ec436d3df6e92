-- Drops the slot $1 when it exists. Fails while somebody reads it. Idempotent.
SELECT pg_catalog.pg_drop_replication_slot(s.slot_name)
  FROM pg_catalog.pg_replication_slots AS s
 WHERE s.slot_name = $1::name
