-- Gives the session's origin back: the next session that mends finds it free.
SELECT pg_catalog.pg_replication_origin_session_reset()
