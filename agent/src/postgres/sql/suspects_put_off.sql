-- These rows are looked at again after all others: relations $1, digests $2.
UPDATE pgaa.suspects AS s
   SET named_at = pg_catalog.clock_timestamp()
  FROM unnest($1::text[], $2::uuid[]) AS d(relation, digest)
 WHERE s.relation = d.relation AND s.digest = d.digest
