-- subscription_advance
-- The subscription $1 goes on at $2 of its provider's WAL. Its worker must not run.
SELECT pg_catalog.pg_replication_origin_advance(s.sub_slot_name::text, $2)
  FROM pglogical.subscription AS s
 WHERE s.sub_name = $1::name
