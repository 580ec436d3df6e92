-- source_sequences
-- Run on the source of a join: statements that bring every user sequence to the source's value.
-- Reads only.
SELECT pg_catalog.format('SELECT pg_catalog.setval(%L, %s, true);',
           pg_catalog.format('%I.%I', s.schemaname, s.sequencename), s.last_value)
  FROM pg_catalog.pg_sequences AS s
 WHERE s.last_value IS NOT NULL
   AND s.schemaname NOT IN ('pgaa', 'pglogical', 'pg_catalog', 'information_schema')
