-- These rows are the same on all nodes: relations $1, digests $2, times of naming $3 in
-- microseconds; as far as they were not named again meanwhile.
DELETE FROM pgaa.suspects AS s
 USING unnest($1::text[], $2::uuid[], $3::int8[]) AS d(relation, digest, named_us)
 WHERE s.relation = d.relation AND s.digest = d.digest
   AND (extract(epoch FROM s.named_at) * 1000000)::int8 <= d.named_us
