-- Takes a transaction number, so that a commit with a time of its own is written: whoever recovers
-- to a time needs one commit behind it. Changes nothing.
SELECT pg_catalog.pg_current_xact_id()::text
