-- source_tables
-- Run on the source of a join, under its snapshot: the replicated user tables, largest first,
-- with the statements that copy them out, and empty the new table and copy them in. Generated
-- columns are made anew. In binary, which is faster, unless a column's binary form carries the OID
-- of a type that is not PostgreSQL's own (arrays and composites of such types do): the same type
-- has another OID here. Frozen: else whoever reads the rows first would write every page once more,
-- and a vacuum would later. pglogical takes a frozen row for older than any change. Reads only.
WITH RECURSIVE carries(oid) AS (
    -- Arrays of types that were made here, composite types, types without a binary form.
    SELECT t.oid
      FROM pg_catalog.pg_type AS t
     WHERE (t.typcategory = 'A' AND t.typelem >= 16384) OR t.typtype = 'c' OR t.typsend = 0
     UNION
    -- What is made of those: domains, ranges, arrays.
    SELECT t.oid
      FROM pg_catalog.pg_type AS t
      LEFT JOIN pg_catalog.pg_range AS r ON t.oid IN (r.rngtypid, r.rngmultitypid)
      JOIN carries AS c ON c.oid IN (t.typbasetype, t.typelem, r.rngsubtype)
)
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname),
       pg_catalog.pg_table_size(c.oid),
       pg_catalog.format('COPY %I.%I (%s) TO STDOUT (FORMAT %s)', n.nspname, c.relname, k.list, f.format),
       pg_catalog.format('TRUNCATE ONLY %I.%I', n.nspname, c.relname),
       pg_catalog.format('COPY %I.%I (%s) FROM STDIN (FORMAT %s, FREEZE)', n.nspname, c.relname, k.list, f.format)
  FROM pglogical.tables AS t
  JOIN pg_catalog.pg_class AS c ON c.oid = t.relid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (
      SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum) AS list
        FROM pg_catalog.pg_attribute AS a
       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
      ) AS k
 CROSS JOIN LATERAL (
      SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                                 JOIN carries ON carries.oid = a.atttypid
                                WHERE a.attrelid = c.oid AND a.attnum > 0
                                  AND NOT a.attisdropped AND a.attgenerated = '')
                  THEN 'text' ELSE 'binary' END AS format
      ) AS f
 WHERE t.set_name = 'default'
 ORDER BY 2 DESC, 1
