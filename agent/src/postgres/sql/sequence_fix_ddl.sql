-- Writes what lets the sequence $1 give $3, $3 + $2, $3 + 2 x $2 and so on. START as well, so
-- that TRUNCATE ... RESTART IDENTITY stays in step.
SELECT pg_catalog.format('ALTER SEQUENCE %I.%I INCREMENT BY %s START WITH %s RESTART WITH %s',
           n.nspname, c.relname, $2::int8, $3::int8, $3::int8)
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid = $1 AND c.relkind = 'S'
