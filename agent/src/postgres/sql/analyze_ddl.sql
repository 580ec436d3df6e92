-- Writes the statements that gather the planner's statistics of the user's tables, after a copy. Of
-- the catalogs autovacuum gathers them in its time; of partitioned tables it never does. Idempotent.
SELECT pg_catalog.format('ANALYZE %I.%I', n.nspname, c.relname)
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'm')
   AND NOT c.relispartition
   AND n.nspname !~ '^pg_'
   AND n.nspname NOT IN ('information_schema', 'pgaa', 'pglogical')
