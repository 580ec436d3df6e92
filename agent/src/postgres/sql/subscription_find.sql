-- One subscription: slot name, enabled, status of its synchronisation, origin there? Reads only.
SELECT s.sub_slot_name::text,
       s.sub_enabled,
       coalesce((SELECT y.sync_status::text FROM pglogical.local_sync_status AS y
                  WHERE y.sync_subid = s.sub_id AND y.sync_nspname IS NULL), ''),
       (SELECT o.roident FROM pg_catalog.pg_replication_origin AS o
         WHERE o.roname = s.sub_slot_name::text)
  FROM pglogical.subscription AS s
 WHERE s.sub_name = $1::name
