-- The numbers and names of the replication origins whose names begin with $1. Reads only.
SELECT o.roident::int8, o.roname
  FROM pg_catalog.pg_replication_origin AS o
 WHERE pg_catalog.starts_with(o.roname, $1)
