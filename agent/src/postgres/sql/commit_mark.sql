-- Takes a transaction number, so that a commit with a time of its own is written: whoever recovers
-- to a time needs one commit behind it. Says when that was, Unix milliseconds: the commit comes
-- later. Changes nothing.
SELECT floor(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::int8,
       pg_catalog.pg_current_xact_id()::text
