-- Sequences that feed a column of a primary key: owned (serial), identity, or named in the
-- column's default. Reads only.
SELECT DISTINCT
       c.oid,
       q.seqrelid,
       pg_catalog.format('%I.%I', n.nspname, c.relname),
       pg_catalog.format('%I.%I', sn.nspname, sc.relname),
       a.attname::text,
       q.seqincrement,
       a.atttypid <> 'pg_catalog.int8'::regtype OR q.seqtypid <> 'pg_catalog.int8'::regtype
  FROM pg_catalog.pg_index AS x
  JOIN pg_catalog.pg_class AS c ON c.oid = x.indrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = ANY (x.indkey)
  LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
  JOIN pg_catalog.pg_depend AS p ON
       (p.classid = 'pg_catalog.pg_class'::regclass
        AND p.refclassid = 'pg_catalog.pg_class'::regclass
        AND p.refobjid = c.oid AND p.refobjsubid = a.attnum AND p.deptype IN ('a', 'i'))
       OR (p.classid = 'pg_catalog.pg_attrdef'::regclass AND p.objid = d.oid
        AND p.refclassid = 'pg_catalog.pg_class'::regclass)
  JOIN pg_catalog.pg_sequence AS q ON q.seqrelid =
       CASE WHEN p.classid = 'pg_catalog.pg_class'::regclass THEN p.objid ELSE p.refobjid END
  JOIN pg_catalog.pg_class AS sc ON sc.oid = q.seqrelid
  JOIN pg_catalog.pg_namespace AS sn ON sn.oid = sc.relnamespace
 WHERE x.indisprimary
   AND c.relkind IN ('r', 'p')
   AND c.relpersistence = 'p'
   AND n.nspname !~ '^pg_'
   AND n.nspname NOT IN ('information_schema', 'pglogical', 'pgaa')
   AND n.nspname <> ALL ($1::text[])
 ORDER BY 3, 5, 4
