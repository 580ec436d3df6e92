-- Is the server still being recovered, and when was the last commit that it replayed? Reads only.
SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_xact_replay_timestamp()::text
