-- Writes the queries that compare and mend the replicated table $1 ('schema.table', quoted where
-- needed). No row when it is not replicated here or has no primary key. Columns:
-- a number for its columns and key, equal where those are; then the queries
--   digest ($1 text[] key after which, $2 text[] last key): rows, two hashes;
--   bound  ($1, $2, $3 int8): the key of row number $3 of that range;
--   rows   ($1, $2, $3 int8): keys with their hashes, $3 rows at most;
--   look   ($1 text[], all columns of the first key, of the second, ...): the same of these keys;
--   versions ($1 as for look): keys, hashes, xmin, commit time in us, origin's number;
--   canonical ($1 as for look): the same keys as this server itself would write them;
--   begins ($1 as for look, $2 int8): the keys, $2 at most, whose values begin like these;
--   values ($1 as for look): keys, xmin, all values but generated ones by their columns' names;
--   rivals ($1 text[] values by their columns' names, $2 text[] key): the keys of other rows with
--     the same value of a unique index, whatever it is on: its expressions and its predicate are
--     evaluated for the row that is given as well, but where they read a generated column;
--   insert, update (NULL for a table that has only its key) and delete, which mend one row: see below;
-- then the names of the columns of its key, and of all columns but generated ones.
-- What mends is one statement and so one transaction, which compares, sets, and notes both versions
-- in pgaa.repairs: $1 text the table, $2 text[] key, $3 text rule, $4 uuid whose version stays, $5
-- int8 when that was committed (for the note), $6 int8 the commit time that it gets, $7 int8 when it is
-- too late (all microseconds since 1970), $8 text[] as $1 of rivals, $9 int8 the row's xmin as it was
-- seen. It tells how many rows it has mended. A row that is locked, or is another one by now, is left
-- alone, and nobody is waited for: what is behind it in the queue is not to become too late.
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
), settable AS (
    SELECT a.attname, a.attnum, a.attidentity,
           pg_catalog.format('($1::text[])[%s]::%s',
               pg_catalog.row_number() OVER (ORDER BY a.attname),
               pg_catalog.format_type(a.atttypid, a.atttypmod)) AS given
      FROM pg_catalog.pg_attribute AS a
      JOIN it ON it.oid = a.attrelid
     WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
), parts_of_row AS (
    SELECT pg_catalog.string_agg(pg_catalog.format('%I::text', s.attname), ', '
               ORDER BY s.attname) AS texts,
           pg_catalog.string_agg(pg_catalog.quote_ident(s.attname), ', '
               ORDER BY s.attname) AS names,
           pg_catalog.string_agg(s.given, ', ' ORDER BY s.attname) AS given,
           pg_catalog.string_agg(pg_catalog.format('%I = %s', s.attname, s.given), ', '
               ORDER BY s.attname) FILTER (WHERE s.attidentity = '' AND NOT EXISTS (
                   SELECT FROM pg_catalog.pg_index AS x
                    WHERE x.indrelid = it.oid AND x.indisprimary
                      AND s.attnum = ANY (x.indkey[0:x.indnkeyatts - 1]))) AS sets,
           pg_catalog.array_agg(s.attname::text ORDER BY s.attname) AS list
      FROM settable AS s, it
), given AS (
    -- The row that the values are of, under the names of its columns: what an index says of a row
    -- can be said of it.
    SELECT pg_catalog.format('(SELECT %s) AS %I', pg_catalog.string_agg(
               pg_catalog.format('%s AS %I', s.given, s.attname), ', ' ORDER BY s.attname),
               min(c.relname)) AS row
      FROM settable AS s, it
      JOIN pg_catalog.pg_class AS c ON c.oid = it.oid
), uniques AS (
    SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' AND ', '(' || u.same, u.there, u.here) || ')',
               ' OR ') AS same
      FROM (SELECT pg_catalog.string_agg(k.what || ' = ' || coalesce(s.given,
                       pg_catalog.format('(SELECT %s FROM %s)', k.what, g.row)), ' AND ') AS same,
                   w.holds AS there,
                   '(SELECT ' || w.holds || ' FROM ' || g.row || ')' AS here
              FROM it
             CROSS JOIN given AS g
              JOIN pg_catalog.pg_index AS x ON x.indrelid = it.oid
             CROSS JOIN LATERAL pg_catalog.generate_series(1, x.indnkeyatts) AS p(place)
             CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_indexdef(x.indexrelid, p.place, false)
                                            AS what) AS k
             CROSS JOIN LATERAL (SELECT '(' || pg_catalog.pg_get_expr(x.indpred, x.indrelid) || ')'
                                            AS holds) AS w
              LEFT JOIN settable AS s ON s.attnum = x.indkey[p.place - 1]
             WHERE x.indisunique AND NOT x.indisprimary
               -- What is generated is not among the values.
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                                 JOIN pg_catalog.pg_attribute AS a
                                   ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                                WHERE d.classid = 'pg_catalog.pg_class'::regclass
                                  AND d.objid = x.indexrelid
                                  AND d.refclassid = 'pg_catalog.pg_class'::regclass
                                  AND d.refobjid = x.indrelid AND a.attgenerated <> '')
             GROUP BY x.indexrelid, w.holds, g.row) AS u
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
           pg_catalog.string_agg(pg_catalog.format('starts_with(pgaa_row.%I::text, ($1::text[])[%s + w.i * x.indnkeyatts])',
               a.attname, k.place), ' AND ' ORDER BY k.place) AS begins,
           pg_catalog.string_agg(pg_catalog.format(
               '(($1::text[])[%s + w.i * x.indnkeyatts]::%s)::text', k.place, y.name), ', '
               ORDER BY k.place) AS canonical,
           pg_catalog.array_agg(a.attname::text ORDER BY k.place) AS names,
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
           pg_catalog.replace(pk.begins, 'x.indnkeyatts', pk.width::text) AS begins,
           pg_catalog.replace(pk.canonical, 'x.indnkeyatts', pk.width::text) AS canonical,
           pk.names AS key_names,
           r.texts AS values, r.names, r.given, r.sets, r.list AS columns, uniques.same,
           pg_catalog.format('(%s) = (%s)', pk.list,
               pg_catalog.replace(pk.after, '$1', '$K')) AS keyed,
           pg_catalog.replace(r.given, '$1', '$8') AS mended,
           pg_catalog.replace(r.sets, '$1', '$8') AS mends,
           'WITH stamp AS MATERIALIZED (SELECT pg_replication_origin_xact_setup('
               '''0/1'', ''epoch''::timestamptz + $6::int8 * interval ''1 microsecond'') AS pgaa_set '
               'WHERE clock_timestamp() < ''epoch''::timestamptz + $7::int8 * interval ''1 microsecond''), '
               AS stamp,
           '), noted AS (INSERT INTO pgaa.repairs (relation, key, rule, before, after, author, committed_at) '
               'SELECT $1::text, $2::text[], $3::text, '
               'CASE WHEN octet_length(done.pgaa_was) < 100000 THEN done.pgaa_was::jsonb END, '
               'CASE WHEN octet_length(done.pgaa_is) < 100000 THEN done.pgaa_is::jsonb END, $4::uuid, '
               '''epoch''::timestamptz + $5::int8 * interval ''1 microsecond'' FROM done) '
               'SELECT count(*) FROM done' AS noted,
           pg_catalog.format('generate_series(0, '
               'coalesce(array_length($1::text[], 1), 0) / %s - 1) AS w(i)', pk.width) AS asked,
           pg_catalog.format('($1::text[] IS NULL OR (%s) > (%s)) '
               'AND ($2::text[] IS NULL OR (%s) <= (%s))',
               pk.list, pk.after, pk.list, pk.upto) AS range
      FROM it, cols, pk, parts_of_row AS r, uniques
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
           'hash_record_extended(ROW(%s), 1) FROM ONLY %s WHERE (%s) IN (SELECT %s FROM %s)',
           p.texts, p.list, p.list, p.name, p.key, p.named, p.asked),
       pg_catalog.format('SELECT y.k, y.a, y.b, y.x, '
           '(extract(epoch FROM (y.s).timestamp) * 1000000)::int8, (y.s).roident::int8 FROM ('
           'SELECT ARRAY[%s] AS k, hash_record_extended(ROW(%s), 0) AS a, '
           'hash_record_extended(ROW(%s), 1) AS b, xmin::text::int8 AS x, '
           'pg_xact_commit_timestamp_origin(xmin) AS s '
           'FROM ONLY %s WHERE (%s) IN (SELECT %s FROM %s) OFFSET 0) AS y',
           p.texts, p.list, p.list, p.name, p.key, p.named, p.asked),
       pg_catalog.format('SELECT ARRAY[%s] FROM %s ORDER BY w.i', p.canonical, p.asked),
       pg_catalog.format('SELECT ARRAY[%s] FROM ONLY %s AS pgaa_row WHERE EXISTS ('
           'SELECT FROM %s WHERE %s) LIMIT $2::int8', p.texts, p.name, p.asked, p.begins),
       pg_catalog.format('SELECT ARRAY[%s], xmin::text::int8, ARRAY[%s] FROM ONLY %s '
           'WHERE (%s) IN (SELECT %s FROM %s)',
           p.texts, p.values, p.name, p.key, p.named, p.asked),
       pg_catalog.format('SELECT ARRAY[%s] FROM ONLY %s WHERE (%s) AND NOT (%s)',
           p.texts, p.name, coalesce(p.same, 'false'),
           pg_catalog.replace(p.keyed, '$K', '$2')),
       p.stamp || pg_catalog.format('done AS (INSERT INTO %s AS pgaa_row (%s) OVERRIDING SYSTEM VALUE '
           'SELECT %s FROM stamp WHERE $9::int8 IS NULL ON CONFLICT (%s) DO NOTHING '
           'RETURNING NULL::text AS pgaa_was, to_jsonb(pgaa_row)::text AS pgaa_is',
           p.name, p.names, p.mended, p.key) || p.noted,
       CASE WHEN p.sets IS NOT NULL THEN p.stamp || pg_catalog.format(
           'done AS (UPDATE ONLY %s AS pgaa_row SET %s FROM (%s) AS pgaa_held '
           'WHERE %s AND pgaa_row.ctid = pgaa_held.pgaa_place '
           'RETURNING pgaa_held.pgaa_was, to_jsonb(pgaa_row)::text AS pgaa_is',
           p.name, p.mends, h.held, h.keyed) || p.noted END,
       p.stamp || pg_catalog.format('done AS (DELETE FROM ONLY %s AS pgaa_row USING (%s) AS pgaa_held '
           'WHERE %s AND pgaa_row.ctid = pgaa_held.pgaa_place AND $8::text[] IS NULL '
           'RETURNING pgaa_held.pgaa_was, NULL::text AS pgaa_is', p.name, h.held, h.keyed) || p.noted,
       p.key_names, p.columns
  FROM parts AS p
 CROSS JOIN LATERAL (SELECT pg_catalog.replace(p.keyed, '$K', '$2') AS keyed) AS k
 CROSS JOIN LATERAL (SELECT k.keyed, pg_catalog.format(
           'SELECT pgaa_row.ctid AS pgaa_place, to_jsonb(pgaa_row)::text AS pgaa_was '
           'FROM ONLY %s AS pgaa_row, stamp WHERE %s AND pgaa_row.xmin::text::int8 = $9::int8 '
           'FOR UPDATE OF pgaa_row SKIP LOCKED', p.name, k.keyed) AS held) AS h
