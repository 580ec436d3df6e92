-- public_schema
-- The schema that every new database has; pg_dump only mentions it where it was changed.
CREATE SCHEMA IF NOT EXISTS public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC
