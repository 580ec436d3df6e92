-- Writes the queries that find rows which refer to nothing, for the foreign keys of and to the table
-- $1 ('schema.table', quoted where needed). Replication checks no foreign key: a row that refers to
-- one which another node deletes meanwhile is left without it. Columns: the constraint, the table
-- that refers, the table that is referred to, and a query ($1 text[], all
-- columns of the first primary key of that table, of the second, ...) for primary keys of rows that
-- refer to nothing: among those of these keys, or among those that refer to these keys. A foreign key
-- to other columns than the primary key is not looked at from that side. Then, for the foreign keys of
-- the table, a query ($1 text[] key behind which, $2 text[] last key) for those in a range of
-- its keys; NULL for the foreign keys to it. Reads only.
WITH it AS (
    SELECT c.oid, c.relispartition
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.oid = pg_catalog.to_regclass($1)
), keys AS (
    SELECT k.oid, k.conname, k.conrelid, k.confrelid, k.conkey, k.confkey, d.referred
      FROM it
     CROSS JOIN (VALUES (true), (false)) AS d(referred)
      JOIN pg_catalog.pg_constraint AS k
        ON CASE WHEN d.referred THEN k.confrelid = it.oid AND NOT it.relispartition
                ELSE k.conrelid = it.oid END
     WHERE k.contype = 'f'
       -- Those of the partitions that are referred to stand for parts of another one.
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS up
                        WHERE up.oid = k.conparentid AND up.conrelid = k.conrelid)
), pairs AS (
    SELECT keys.oid, keys.referred,
           pg_catalog.string_agg(pg_catalog.format('p.%I = c.%I', r.attname, f.attname), ' AND ') AS same,
           pg_catalog.string_agg(pg_catalog.format('c.%I IS NOT NULL', f.attname), ' AND ') AS whole
      FROM keys
     CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(keys.conkey), pg_catalog.unnest(keys.confkey))
           AS a(here, there)
      JOIN pg_catalog.pg_attribute AS f ON f.attrelid = keys.conrelid AND f.attnum = a.here
      JOIN pg_catalog.pg_attribute AS r ON r.attrelid = keys.confrelid AND r.attnum = a.there
     GROUP BY keys.oid, keys.referred
), primaries AS (
    SELECT x.indrelid, max(x.indnkeyatts) AS width,
           pg_catalog.array_agg(p.attnum ORDER BY p.place) AS list,
           pg_catalog.string_agg(pg_catalog.format('c.%I', a.attname), ', ' ORDER BY p.place) AS names,
           pg_catalog.string_agg(pg_catalog.format('c.%I::text', a.attname), ', '
               ORDER BY p.place) AS texts,
           pg_catalog.string_agg(pg_catalog.format('($1::text[])[%s + w.i * %s]::%s', p.place,
               x.indnkeyatts, pg_catalog.format_type(a.atttypid, a.atttypmod)), ', '
               ORDER BY p.place) AS given,
           pg_catalog.string_agg(pg_catalog.format('($1::text[])[%s]::%s', p.place,
               pg_catalog.format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY p.place) AS after,
           pg_catalog.string_agg(pg_catalog.format('($2::text[])[%s]::%s', p.place,
               pg_catalog.format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY p.place) AS upto,
           pg_catalog.format('generate_series(0, coalesce(array_length($1::text[], 1), 0) / %s - 1) '
               'AS w(i)', max(x.indnkeyatts)) AS asked
      FROM pg_catalog.pg_index AS x
     CROSS JOIN LATERAL pg_catalog.unnest(x.indkey) WITH ORDINALITY AS p(attnum, place)
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = p.attnum
     WHERE x.indisprimary AND p.place <= x.indnkeyatts
       AND x.indrelid IN (SELECT k.conrelid FROM keys AS k UNION SELECT k.confrelid FROM keys AS k)
     GROUP BY x.indexrelid, x.indrelid
), refers AS (
    -- The columns that refer, in the order of the primary key that they refer to.
    SELECT keys.oid, pg_catalog.string_agg(pg_catalog.format('c.%I', f.attname), ', '
               ORDER BY p.place) AS names, pg_catalog.count(*) AS width
      FROM keys
      JOIN primaries AS pk ON pk.indrelid = keys.confrelid
     CROSS JOIN LATERAL pg_catalog.unnest(pk.list) WITH ORDINALITY AS p(attnum, place)
     CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(keys.conkey), pg_catalog.unnest(keys.confkey))
           AS a(here, there)
      JOIN pg_catalog.pg_attribute AS f ON f.attrelid = keys.conrelid AND f.attnum = a.here
     WHERE p.attnum = a.there AND keys.referred
     GROUP BY keys.oid
), names AS (
    SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
)
SELECT k.conname::text, c.name, p.name,
       pg_catalog.format('SELECT ARRAY[%s] FROM %s AS c WHERE (%s) IN (SELECT %s FROM %s) AND %s '
           'AND NOT EXISTS (SELECT FROM %s AS p WHERE %s) LIMIT 1000',
           child.texts, c.name,
           CASE WHEN k.referred THEN r.names ELSE child.names END,
           CASE WHEN k.referred THEN parent.given ELSE child.given END,
           CASE WHEN k.referred THEN parent.asked ELSE child.asked END,
           pairs.whole, p.name, pairs.same),
       CASE WHEN NOT k.referred THEN pg_catalog.format('SELECT ARRAY[%s] FROM %s AS c '
           'WHERE ($1::text[] IS NULL OR (%s) > (%s)) AND ($2::text[] IS NULL OR (%s) <= (%s)) AND %s '
           'AND NOT EXISTS (SELECT FROM %s AS p WHERE %s) LIMIT 1000',
           child.texts, c.name, child.names, child.after, child.names, child.upto,
           pairs.whole, p.name, pairs.same) END
  FROM keys AS k
  JOIN pairs ON pairs.oid = k.oid AND pairs.referred = k.referred
  JOIN names AS c ON c.oid = k.conrelid
  JOIN names AS p ON p.oid = k.confrelid
  JOIN primaries AS child ON child.indrelid = k.conrelid
  LEFT JOIN primaries AS parent ON parent.indrelid = k.confrelid
  LEFT JOIN refers AS r ON r.oid = k.oid AND r.width = parent.width
 WHERE NOT k.referred OR r.names IS NOT NULL
 ORDER BY 1, 2, k.referred
