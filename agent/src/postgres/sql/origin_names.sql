-- The replication origins: number, name, and the pglogical node that sends through it. Reads only.
SELECT o.roident::int8, o.roname, n.node_name::text
  FROM pg_catalog.pg_replication_origin AS o
  LEFT JOIN pglogical.subscription AS s ON s.sub_slot_name::text = o.roname
  LEFT JOIN pglogical.node AS n ON n.node_id = s.sub_origin
