-- Writes the query that reads the state of the sequences $1 (their pg_sequences row can't tell
-- an unused sequence from a restarted one). Reads only.
SELECT pg_catalog.string_agg(pg_catalog.format(
           'SELECT %s::pg_catalog.oid, s.last_value, s.is_called FROM %I.%I AS s',
           c.oid, n.nspname, c.relname), ' UNION ALL ')
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid = ANY ($1) AND c.relkind = 'S'
