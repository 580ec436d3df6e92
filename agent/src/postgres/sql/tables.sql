-- The user's tables with a digest of their structure that can be compared between nodes: columns
-- by name (pglogical matches them by name), the primary key in its order, the replica identity.
-- Left out: our and pglogical's own schemas, those of $1, tables of extensions, and partitioned
-- parents, which hold no rows (their partitions are listed). Reads only.
SELECT c.oid,
       pg_catalog.format('%I.%I', n.nspname, c.relname),
       ('x' || pg_catalog.encode(pg_catalog.substring(pg_catalog.sha256(pg_catalog.convert_to(
           coalesce(cols.described, '') || E'\x1d' || coalesce(pk.columns, '')
               || E'\x1d' || c.relreplident::text,
           'UTF8')), 1, 8), 'hex'))::bit(64)::int8,
       pk.columns IS NOT NULL,
       c.relpersistence = 'p' AND c.relreplident IN ('d', 'i')
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (
      SELECT pg_catalog.string_agg(pg_catalog.concat_ws(E'\x1f', a.attname,
                 pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull::text,
                 a.attidentity::text, a.attgenerated::text,
                 CASE WHEN a.attcollation <> t.typcollation THEN l.collname::text ELSE '' END),
                 E'\x1e' ORDER BY a.attname) AS described
        FROM pg_catalog.pg_attribute AS a
        JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
        LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation
       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  ) AS cols ON true
  LEFT JOIN LATERAL (
      SELECT pg_catalog.string_agg(a.attname::text, E'\x1e' ORDER BY k.place) AS columns
        FROM pg_catalog.pg_index AS x
        CROSS JOIN LATERAL pg_catalog.unnest(x.indkey) WITH ORDINALITY AS k(attnum, place)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
       WHERE x.indrelid = c.oid AND x.indisprimary AND x.indimmediate AND x.indisvalid
         AND k.place <= x.indnkeyatts
  ) AS pk ON true
 WHERE c.relkind = 'r'
   AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_'
   AND n.nspname NOT IN ('information_schema', 'pglogical', 'pgaa')
   AND n.nspname <> ALL ($1::text[])
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS e
                    WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid
                      AND e.deptype = 'e')
 ORDER BY 2
