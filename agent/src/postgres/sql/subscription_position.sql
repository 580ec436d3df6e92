-- subscription_position
-- How far of its provider's WAL the subscription $1 has applied. Reads only.
SELECT coalesce(pg_catalog.pg_replication_origin_progress(s.sub_slot_name::text, true), '0/0')
  FROM pglogical.subscription AS s
 WHERE s.sub_name = $1::name
