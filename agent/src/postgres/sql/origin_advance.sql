-- Sets the progress of the origin $1 to $2: the stream starts there. Idempotent.
SELECT pg_catalog.pg_replication_origin_advance($1, $2)
