-- conflict_origins
-- The numbers that origins have here, with the pglogical node that each belongs to now, and the
-- node that it was last known to belong to. Reads only.
SELECT o.roident::int8, n.node_name::text, k.node
  FROM pg_catalog.pg_replication_origin AS o
  LEFT JOIN pglogical.subscription AS s ON s.sub_slot_name::text = o.roname
  LEFT JOIN pglogical.node AS n ON n.node_id = s.sub_origin
  LEFT JOIN pgaa.origin_node AS k ON k.number = o.roident::int8
