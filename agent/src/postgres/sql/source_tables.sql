-- source_tables
-- Run on the source of a join, under its snapshot: the replicated user tables, largest first,
-- with the statements that copy them out and in. Generated columns are made anew. Reads only.
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname),
       pg_catalog.pg_table_size(c.oid),
       pg_catalog.format('COPY %I.%I (%s) TO STDOUT (FORMAT binary)', n.nspname, c.relname, k.list),
       pg_catalog.format('COPY %I.%I (%s) FROM STDIN (FORMAT binary)', n.nspname, c.relname, k.list)
  FROM pglogical.tables AS t
  JOIN pg_catalog.pg_class AS c ON c.oid = t.relid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (
      SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum) AS list
        FROM pg_catalog.pg_attribute AS a
       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
      ) AS k
 WHERE t.set_name = 'default'
 ORDER BY 2 DESC, 1
