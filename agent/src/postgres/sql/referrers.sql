-- Writes what tells how many rows refer to a row of the table $1 ('schema.table', quoted where
-- needed), the one with the primary key $2 (text[]): for each foreign key to it the constraint, the
-- table that refers, a query ($1 text[], that key) for their number, counted to a thousand, and what
-- makes them refer to it no longer, for people. Rows are found by the key itself where the foreign
-- key is to that, else by what the row has here. A row's reference to itself doesn't count. Reads only.
WITH it AS (
    SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.oid = pg_catalog.to_regclass($1)
), pk AS (
    SELECT pg_catalog.array_agg(a.attnum ORDER BY k.place) AS list,
           pg_catalog.array_agg(pg_catalog.format('($1::text[])[%s]::%s', k.place,
               pg_catalog.format_type(a.atttypid, a.atttypmod)) ORDER BY k.place) AS given,
           pg_catalog.string_agg(pg_catalog.format('p.%I = ($1::text[])[%s]::%s', a.attname, k.place,
               pg_catalog.format_type(a.atttypid, a.atttypmod)), ' AND ' ORDER BY k.place) AS there,
           pg_catalog.string_agg(pg_catalog.format('c.%I = ($1::text[])[%s]::%s', a.attname, k.place,
               pg_catalog.format_type(a.atttypid, a.atttypmod)), ' AND ' ORDER BY k.place) AS itself,
           pg_catalog.string_agg(pg_catalog.format('%I = %L', a.attname, ($2::text[])[k.place]),
               ' AND ' ORDER BY k.place) AS told
      FROM it
      JOIN pg_catalog.pg_index AS x ON x.indrelid = it.oid AND x.indisprimary
     CROSS JOIN LATERAL pg_catalog.unnest(x.indkey) WITH ORDINALITY AS k(attnum, place)
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
     WHERE k.place <= x.indnkeyatts
), keys AS (
    SELECT k.oid, k.conname, k.conrelid, k.confdeltype,
           pg_catalog.format('%I.%I', n.nspname, c.relname) AS child,
           pg_catalog.bool_and(p.place IS NOT NULL) AS by_key,
           pg_catalog.string_agg(pg_catalog.format('c.%I = %s', f.attname, pk.given[p.place]), ' AND ') AS keyed,
           pg_catalog.string_agg(pg_catalog.format('c.%I = p.%I', f.attname, r.attname), ' AND ') AS joined,
           pg_catalog.string_agg(pg_catalog.format('%I = ...', f.attname), ', ') AS sets,
           pg_catalog.string_agg(pg_catalog.format('%I = %L', f.attname, ($2::text[])[p.place]), ' AND ') AS told
      FROM it
     CROSS JOIN pk
      JOIN pg_catalog.pg_constraint AS k ON k.contype = 'f' AND k.confrelid = it.oid
      JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey))
           AS a(here, there)
      JOIN pg_catalog.pg_attribute AS f ON f.attrelid = k.conrelid AND f.attnum = a.here
      JOIN pg_catalog.pg_attribute AS r ON r.attrelid = k.confrelid AND r.attnum = a.there
     CROSS JOIN LATERAL (SELECT pg_catalog.array_position(pk.list, a.there) AS place) AS p
     -- Those of partitions that refer stand in the one of the whole table.
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS up
                        WHERE up.oid = k.conparentid AND up.confrelid = k.confrelid)
     GROUP BY k.oid, k.conname, k.conrelid, k.confdeltype, n.nspname, c.relname
)
SELECT k.conname::text, k.child,
       pg_catalog.format('SELECT count(*) FROM (SELECT FROM %s AS c WHERE %s%s LIMIT 1000) AS w',
           k.child,
           CASE WHEN k.by_key THEN k.keyed
                ELSE pg_catalog.format('EXISTS (SELECT FROM ONLY %s AS p WHERE %s AND %s)',
                         it.name, pk.there, k.joined) END,
           CASE WHEN k.conrelid = it.oid
                THEN pg_catalog.format(' AND NOT (%s)', pk.itself) END),
       CASE WHEN k.confdeltype IN ('c', 'n', 'd')
            THEN pg_catalog.format('DELETE FROM %s WHERE %s', it.name, pk.told)
            ELSE pg_catalog.format('UPDATE %s SET %s%s', k.child, k.sets,
                     CASE WHEN k.by_key THEN ' WHERE ' || k.told END) END
  FROM keys AS k, it, pk
 ORDER BY 2, 1
