-- Points the subscription $1 at nothing, before it is dropped: dropping it would otherwise try to
-- drop its slot on the provider, for up to 15 s when that one is dead, and the slot is its
-- provider's to drop. Idempotent.
UPDATE pglogical.node_interface AS i SET if_dsn = 'host=/nonexistent'
  FROM pglogical.subscription AS s
 WHERE s.sub_name = $1::name AND i.if_id = s.sub_origin_if
