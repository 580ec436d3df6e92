-- The tables that are replicated, as 'schema.table'. Works without pglogical's library, in a
-- database that was restored. Reads only.
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
  FROM pglogical.tables AS t
  JOIN pg_catalog.pg_class AS c ON c.oid = t.relid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE t.set_name = 'default'
 ORDER BY 1
