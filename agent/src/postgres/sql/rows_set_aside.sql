-- Writes what moves the rows of the table with the OID $1 into a temporary table. Without user
-- triggers and foreign keys: the rows come back in the same transaction.
SELECT pg_catalog.format(
           'SET LOCAL session_replication_role = replica; '
           'CREATE TEMPORARY TABLE pgaa_aside ON COMMIT DROP AS SELECT * FROM ONLY %1$I.%2$I; '
           'DELETE FROM ONLY %1$I.%2$I', n.nspname, c.relname)
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid = $1
