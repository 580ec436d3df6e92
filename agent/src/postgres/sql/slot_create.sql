-- Creates the slot $1; returns the position from which it is complete. Fails when it exists.
SELECT s.lsn FROM pg_catalog.pg_create_logical_replication_slot($1::name, 'pglogical_output') AS s
