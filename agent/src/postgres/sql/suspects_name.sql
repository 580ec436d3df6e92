-- Names rows that may differ: $1 a JSON array of {table, key, cut, by, deleted_us}. A row that is
-- named again keeps its latest own delete, and the time of its last naming.
INSERT INTO pgaa.suspects AS s (relation, digest, key, cut, named_by, named_at, deleted_at)
SELECT n.relation, n.digest, n.key, n.cut, pg_catalog.min(n.named_by),
       pg_catalog.clock_timestamp(), pg_catalog.max(n.deleted_at)
  FROM (SELECT j.named ->> 'table' AS relation,
               pg_catalog.md5((j.named -> 'key')::text || (j.named ->> 'cut'))::uuid AS digest,
               ARRAY(SELECT pg_catalog.jsonb_array_elements_text(j.named -> 'key')) AS key,
               (j.named ->> 'cut')::boolean AS cut,
               j.named ->> 'by' AS named_by,
               'epoch'::timestamptz + (j.named ->> 'deleted_us')::int8 * interval '1 microsecond'
                   AS deleted_at
          FROM pg_catalog.jsonb_array_elements($1::text::jsonb) AS j(named)) AS n
 GROUP BY n.relation, n.digest, n.key, n.cut
    ON CONFLICT (relation, digest) DO UPDATE
   SET named_at = excluded.named_at,
       named_by = excluded.named_by,
       deleted_at = greatest(s.deleted_at, excluded.deleted_at)
