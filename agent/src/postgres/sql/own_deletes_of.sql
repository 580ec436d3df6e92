-- When this node itself deleted rows of table $1 last, microseconds, and whether it has ordered
-- repairs of them, for each of the keys $2 (a JSON array of arrays) by its place from 1. Reads only.
SELECT k.place, (extract(epoch FROM s.deleted_at) * 1000000)::int8, s.ordered_at IS NOT NULL
  FROM pg_catalog.jsonb_array_elements($2::text::jsonb) WITH ORDINALITY AS k(key, place)
  JOIN pgaa.suspects AS s
    ON s.relation = $1 AND s.digest = pg_catalog.md5(k.key::text || 'false')::uuid
