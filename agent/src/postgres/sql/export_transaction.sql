-- export_transaction
-- Run on the provider by psql: what the transaction :xid with its commit at :'commit' has changed,
-- as test_decoding writes it, each change as :shape says, read through a copy of the slot :'slot' that ends with the session. The
-- slot itself stays where it is.
SELECT pg_catalog.pg_copy_logical_replication_slot(:'slot', :'copy', true, 'test_decoding')
\g /dev/null
SELECT c.lsn, c.xid, :shape
  FROM pg_catalog.pg_logical_slot_peek_changes(:'copy', (:'commit'::pg_lsn + 1), NULL) AS c
 WHERE c.xid::text = :'xid';
