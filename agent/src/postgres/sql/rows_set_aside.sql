-- Writes what moves the rows of the table with the OID $1 that were written on this node into a
-- temporary table. Rows that came from other nodes stay: their own node sends them, and sent from
-- here they would look newer than what that node has made of them since. Without user triggers
-- and foreign keys: the rows come back in the same transaction.
SELECT pg_catalog.format(
           'SET LOCAL session_replication_role = replica; '
           'CREATE TEMPORARY TABLE pgaa_aside ON COMMIT DROP AS SELECT t.* FROM ONLY %1$I.%2$I AS t '
           'WHERE coalesce((pglogical.xact_commit_timestamp_origin(t.xmin)).roident, 0) = 0; '
           'DELETE FROM ONLY %1$I.%2$I AS t '
           'WHERE coalesce((pglogical.xact_commit_timestamp_origin(t.xmin)).roident, 0) = 0',
           n.nspname, c.relname)
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid = $1
