-- origin_progress
-- How far the subscription $1 has been applied here, in its provider's WAL; flushed, so that the
-- answer survives a crash. Reads only.
SELECT pg_catalog.pg_replication_origin_progress(s.sub_slot_name::text, true)
  FROM pglogical.subscription AS s
 WHERE s.sub_name = $1::name
