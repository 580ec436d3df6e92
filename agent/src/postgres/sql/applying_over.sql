-- applying_over
-- Lets the origin go that this session has written under, for the worker that waits for it.
SELECT pg_catalog.pg_replication_origin_session_reset()
