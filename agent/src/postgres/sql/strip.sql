-- Takes out of a restored database what belonged to the mesh it comes from: pglogical's nodes,
-- subscriptions, replication sets and triggers, our own schema, slots and origins. The rows of the
-- user stay. Event triggers sleep meanwhile: pglogical's can't run without its library. The commit
-- times, which name the origins, are gone already: the server runs without track_commit_timestamp.
-- Can be repeated.
BEGIN;
SET LOCAL session_replication_role = replica;
DROP EXTENSION IF EXISTS pglogical CASCADE;
-- The extension's schema outlives it.
DROP SCHEMA IF EXISTS pglogical CASCADE;
DROP SCHEMA IF EXISTS pgaa CASCADE;
SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots;
SELECT pg_catalog.pg_replication_origin_drop(roname) FROM pg_catalog.pg_replication_origin;
COMMIT
