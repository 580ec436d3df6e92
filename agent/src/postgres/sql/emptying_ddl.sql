-- emptying_ddl
-- Writes the statement that empties those of the tables $1 ('schema.table', quoted where needed) that
-- are replicated here, together, so that foreign keys among them are in nobody's way. NULL where
-- none is. Reads only.
SELECT 'TRUNCATE ' || pg_catalog.string_agg(pg_catalog.format('ONLY %I.%I', n.nspname, c.relname), ', ')
  FROM pglogical.tables AS t
  JOIN pg_catalog.pg_class AS c ON c.oid = t.relid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE t.set_name = 'default' AND c.relkind = 'r'
   AND pg_catalog.format('%I.%I', n.nspname, c.relname) = ANY ($1::text[])
