-- Creates the replication origin $1 and returns its number. Fails when it exists.
SELECT pg_catalog.pg_replication_origin_create($1)
