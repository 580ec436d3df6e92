-- The local pglogical node, its DSN and the interface that carries it. Reads only.
SELECT n.node_name::text, i.if_dsn, i.if_id
  FROM pglogical.local_node AS here
  JOIN pglogical.node AS n ON n.node_id = here.node_id
  JOIN pglogical.node_interface AS i ON i.if_id = here.node_local_interface
