-- Rows that may differ, $1 at most: those first that were named first, whole tables last; with the
-- time of their naming in microseconds, and how long ago repairs were ordered, milliseconds. Reads
-- only.
SELECT s.relation, s.key, s.cut, s.digest,
       (extract(epoch FROM s.named_at) * 1000000)::int8,
       (extract(epoch FROM pg_catalog.clock_timestamp() - s.ordered_at) * 1000)::int8
  FROM pgaa.suspects AS s
 ORDER BY pg_catalog.cardinality(s.key) = 0, s.named_at
 LIMIT $1
