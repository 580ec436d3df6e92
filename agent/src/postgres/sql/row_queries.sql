-- Writes the statements that read and write back whole rows of the table $1 ('schema.table', quoted
-- where needed). No row when there is no such table or it has no primary key. Columns:
-- its columns in their order with their types, equal where a row of one fits the other; then
--   fetch  ($1 text[], all columns of the first key, of the second, ...): key, the row as text, its
--          values as json of texts, xmin, when that was committed;
--   insert ($1 text[], rows as text): the keys of those that were inserted;
--   update ($1 text[], rows as text; $2 text[], the xmin of each row as it was seen): the keys of
--          those that were set. NULL when there is nothing but the key.
-- Generated columns are left out, identities are taken as they were. Reads only.
WITH it AS (
    SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND pg_catalog.format('%I.%I', n.nspname, c.relname) = $1
), cols AS (
    SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attname,
               pg_catalog.format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum) AS structure,
           pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
               FILTER (WHERE a.attgenerated = '') AS written,
           pg_catalog.string_agg(pg_catalog.format('(pgaa_r.v).%I', a.attname), ', '
               ORDER BY a.attnum) FILTER (WHERE a.attgenerated = '') AS vals,
           pg_catalog.string_agg(pg_catalog.format('%I = (pgaa_r.v).%I', a.attname, a.attname), ', '
               ORDER BY a.attnum)
               FILTER (WHERE a.attgenerated = '' AND a.attidentity <> 'a' AND NOT EXISTS (
                   SELECT FROM pg_catalog.pg_index AS x
                    WHERE x.indrelid = a.attrelid AND x.indisprimary
                      AND a.attnum = ANY (x.indkey))) AS assigned
      FROM pg_catalog.pg_attribute AS a
      JOIN it ON it.oid = a.attrelid
     WHERE a.attnum > 0 AND NOT a.attisdropped
), pk AS (
    SELECT pg_catalog.string_agg(pg_catalog.format('pgaa_t.%I', a.attname), ', '
               ORDER BY k.place) AS list,
           pg_catalog.string_agg(pg_catalog.format('pgaa_t.%I::text', a.attname), ', '
               ORDER BY k.place) AS texts,
           pg_catalog.string_agg(pg_catalog.format('(pgaa_r.v).%I', a.attname), ', '
               ORDER BY k.place) AS meant,
           pg_catalog.string_agg(pg_catalog.format('($1::text[])[%s + pgaa_w.i * %s]::%s',
               k.place, x.indnkeyatts, y.name), ', ' ORDER BY k.place) AS named,
           max(x.indnkeyatts) AS width
      FROM it
      JOIN pg_catalog.pg_index AS x ON x.indrelid = it.oid AND x.indisprimary
     CROSS JOIN LATERAL pg_catalog.unnest(x.indkey) WITH ORDINALITY AS k(attnum, place)
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
     CROSS JOIN LATERAL (SELECT pg_catalog.format_type(a.atttypid, a.atttypmod) AS name) AS y
     WHERE k.place <= x.indnkeyatts
)
SELECT cols.structure || ' | ' || pk.texts,
       pg_catalog.format('SELECT ARRAY[%s], pgaa_t::text, (SELECT json_object_agg(j.key, j.value) '
           'FROM json_each_text(row_to_json(pgaa_t)) AS j)::text, pgaa_t.xmin::text, '
           'pg_xact_commit_timestamp(pgaa_t.xmin)::text FROM ONLY %s AS pgaa_t WHERE (%s) IN ('
           'SELECT %s FROM generate_series(0, coalesce(array_length($1::text[], 1), 0) / %s - 1) '
           'AS pgaa_w(i))', pk.texts, it.name, pk.list, pk.named, pk.width),
       pg_catalog.format('INSERT INTO %s AS pgaa_t (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM ('
           'SELECT w::%s AS v FROM unnest($1::text[]) AS w OFFSET 0) AS pgaa_r '
           'ON CONFLICT DO NOTHING RETURNING ARRAY[%s]',
           it.name, cols.written, cols.vals, it.name, pk.texts),
       CASE WHEN cols.assigned IS NOT NULL THEN
           pg_catalog.format('UPDATE ONLY %s AS pgaa_t SET %s FROM (SELECT w::%s AS v, s AS seen '
               'FROM unnest($1::text[], $2::text[]) AS u(w, s) OFFSET 0) AS pgaa_r '
               'WHERE (%s) = (%s) AND pgaa_t.xmin::text = pgaa_r.seen RETURNING ARRAY[%s]',
               it.name, cols.assigned, it.name, pk.list, pk.meant, pk.texts) END
  FROM it, cols, pk
 WHERE pk.width IS NOT NULL
