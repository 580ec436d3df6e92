-- Writes the queries that compare the replicated table $1 ('schema.table', quoted where needed) with
-- the same table elsewhere. No row when it is not replicated here or has no primary key. Columns:
-- a number for its columns and key, equal where those are; then the queries
--   digest ($1 text[] key after which, $2 text[] last key): rows, two hashes;
--   bound  ($1, $2, $3 int8): the key of row number $3 of that range;
--   rows   ($1, $2, $3 int8): keys with their hashes, $3 rows at most;
--   look   ($1 text[], all columns of the first key, of the second, ...): the same of these keys.
-- A row is hashed by its columns in the order of their names. What is no plain value of
-- PostgreSQL's own types is hashed as text: numeric 1.0 and 1.00 are equal by their hashes, the
-- OIDs in enums and composites differ between nodes, and not every type has a hash. Reads only.
WITH it AS (
    SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
      FROM pglogical.tables AS t
      JOIN pg_catalog.pg_class AS c ON c.oid = t.relid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE t.set_name = 'default' AND pg_catalog.format('%I.%I', n.nspname, c.relname) = $1
), cols AS (
    SELECT pg_catalog.string_agg(
               CASE WHEN a.atttypid IN ('bool'::regtype, 'bytea'::regtype, 'int2'::regtype,
                                        'int4'::regtype, 'int8'::regtype, 'uuid'::regtype,
                                        'date'::regtype, 'time'::regtype, 'timestamp'::regtype,
                                        'timestamptz'::regtype)
                    THEN pg_catalog.quote_ident(a.attname)
                    ELSE pg_catalog.format('(%I::text COLLATE "C")', a.attname) END,
               ', ' ORDER BY a.attname) AS list,
           pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attname,
               pg_catalog.format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attname) AS shape
      FROM pg_catalog.pg_attribute AS a
      JOIN it ON it.oid = a.attrelid
     WHERE a.attnum > 0 AND NOT a.attisdropped
), pk AS (
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY k.place) AS list,
           pg_catalog.string_agg(pg_catalog.format('%I::text', a.attname), ', '
               ORDER BY k.place) AS texts,
           pg_catalog.string_agg(pg_catalog.format('($1::text[])[%s]::%s', k.place, y.name), ', '
               ORDER BY k.place) AS after,
           pg_catalog.string_agg(pg_catalog.format('($2::text[])[%s]::%s', k.place, y.name), ', '
               ORDER BY k.place) AS upto,
           pg_catalog.string_agg(pg_catalog.format('($1::text[])[%s + w.i * x.indnkeyatts]::%s',
               k.place, y.name), ', ' ORDER BY k.place) AS named,
           max(x.indnkeyatts) AS width
      FROM it
      JOIN pg_catalog.pg_index AS x ON x.indrelid = it.oid
                                   AND x.indisprimary AND x.indimmediate AND x.indisvalid
     CROSS JOIN LATERAL pg_catalog.unnest(x.indkey) WITH ORDINALITY AS k(attnum, place)
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
     CROSS JOIN LATERAL (SELECT pg_catalog.format_type(a.atttypid, a.atttypmod) AS name) AS y
     WHERE k.place <= x.indnkeyatts
), parts AS (
    SELECT it.name, cols.list, cols.shape, pk.list AS key, pk.texts, pk.width,
           pg_catalog.replace(pk.named, 'x.indnkeyatts', pk.width::text) AS named,
           pg_catalog.format('($1::text[] IS NULL OR (%s) > (%s)) '
               'AND ($2::text[] IS NULL OR (%s) <= (%s))',
               pk.list, pk.after, pk.list, pk.upto) AS range
      FROM it, cols, pk
     WHERE pk.width IS NOT NULL
)
SELECT pg_catalog.hashtextextended(p.shape || ' | ' || p.key, 0),
       pg_catalog.format('SELECT count(*), '
           'coalesce(bit_xor(hash_record_extended(x.r, 0)), 0), '
           'coalesce(bit_xor(hash_record_extended(x.r, 1)), 0) '
           'FROM (SELECT ROW(%s) AS r FROM ONLY %s WHERE %s) AS x',
           p.list, p.name, p.range),
       pg_catalog.format('SELECT ARRAY[%s] FROM ONLY %s WHERE %s ORDER BY %s '
           'OFFSET $3::int8 - 1 LIMIT 1', p.texts, p.name, p.range, p.key),
       pg_catalog.format('SELECT ARRAY[%s], hash_record_extended(ROW(%s), 0), '
           'hash_record_extended(ROW(%s), 1) FROM ONLY %s WHERE %s LIMIT $3::int8',
           p.texts, p.list, p.list, p.name, p.range),
       pg_catalog.format('SELECT ARRAY[%s], hash_record_extended(ROW(%s), 0), '
           'hash_record_extended(ROW(%s), 1) FROM ONLY %s WHERE (%s) IN ('
           'SELECT %s FROM generate_series(0, coalesce(array_length($1::text[], 1), 0) / %s - 1) AS w(i))',
           p.texts, p.list, p.list, p.name, p.key, p.named, p.width)
  FROM parts AS p
