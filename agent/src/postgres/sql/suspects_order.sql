-- Repairs of these rows are being ordered: relation $1, keys $2 (a JSON array of arrays). Rows that
-- are not in the list come into it.
INSERT INTO pgaa.suspects AS s (relation, digest, key, cut, named_by, named_at, ordered_at)
SELECT $1, pg_catalog.md5(k.key::text || 'false')::uuid,
       ARRAY(SELECT pg_catalog.jsonb_array_elements_text(k.key)), false, 'repair',
       pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp()
  FROM pg_catalog.jsonb_array_elements($2::text::jsonb) AS k(key)
    ON CONFLICT (relation, digest) DO UPDATE SET ordered_at = excluded.ordered_at
