-- Writes the queries that tell whether any of the tables $1 holds a row, 50 tables a query; the
-- largest first, and none for tables without a single page. Reads only.
SELECT 'SELECT ' || pg_catalog.string_agg(pg_catalog.format(
           'EXISTS (SELECT FROM ONLY %I.%I)', t.nspname, t.relname), ' OR ' ORDER BY t.place)
  FROM (SELECT n.nspname, c.relname,
               row_number() OVER (ORDER BY pg_catalog.pg_relation_size(c.oid) DESC) AS place
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.oid = ANY ($1) AND pg_catalog.pg_relation_size(c.oid) > 0) AS t
 GROUP BY t.place / 50
 ORDER BY t.place / 50
