-- Marks the subscription $1 as synchronised, in the transaction that creates it. Else pglogical
-- would drop the slot on the provider and make it anew, and lose what was written in between.
UPDATE pglogical.local_sync_status AS y
   SET sync_status = 'r'
  FROM pglogical.subscription AS s
 WHERE s.sub_name = $1::name AND y.sync_subid = s.sub_id AND y.sync_nspname IS NULL
RETURNING s.sub_slot_name::text
