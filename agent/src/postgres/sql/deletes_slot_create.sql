-- Makes the slot $1. It waits for transactions that are running.
SELECT pg_catalog.pg_create_logical_replication_slot($1, 'test_decoding')
