-- The number of the origin $1. Reads only.
SELECT o.roident FROM pg_catalog.pg_replication_origin AS o WHERE o.roname = $1
