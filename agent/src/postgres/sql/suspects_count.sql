-- How many rows are named, counted up to $1. Reads only.
SELECT pg_catalog.count(*) FROM (SELECT FROM pgaa.suspects LIMIT $1) AS s
