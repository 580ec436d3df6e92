-- Writes the query for the highest value that the column $2 of the table $1 holds or the
-- sequence $3 has given out.
SELECT pg_catalog.format(
           'SELECT greatest((SELECT pg_catalog.max(t.%I)::int8 FROM %I.%I AS t), '
           '(SELECT s.last_value - CASE WHEN s.is_called THEN 0 ELSE 1 END FROM %I.%I AS s), 0)',
           $2::text, n.nspname, c.relname, sn.nspname, sc.relname)
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  CROSS JOIN pg_catalog.pg_class AS sc
  JOIN pg_catalog.pg_namespace AS sn ON sn.oid = sc.relnamespace
 WHERE c.oid = $1 AND sc.oid = $3
