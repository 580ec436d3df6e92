-- Nobody waits any more for repairs of these rows: relations $1, digests $2.
UPDATE pgaa.suspects AS s
   SET ordered_at = NULL
  FROM unnest($1::text[], $2::uuid[]) AS d(relation, digest)
 WHERE s.relation = d.relation AND s.digest = d.digest
