-- What this transaction writes was committed at $1, microseconds, by the author that the session's
-- origin stands for: it never beats a newer write. The position means nothing.
SELECT pg_catalog.pg_replication_origin_xact_setup(
           '0/1', 'epoch'::timestamptz + $1::int8 * interval '1 microsecond')
