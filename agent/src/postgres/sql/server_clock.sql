-- This server's clock, microseconds since 1970-01-01 UTC. Reads only.
SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::int8
