-- The server's system identifier. Reads only.
SELECT system_identifier::text FROM pg_catalog.pg_control_system()
