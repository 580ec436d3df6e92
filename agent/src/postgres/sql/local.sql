-- The data epoch, and the local pglogical node with the DSN it announces. One row. Reads only.
SELECT (SELECT l.epoch FROM pgaa.local AS l),
       n.node_name,
       i.if_dsn
  FROM (SELECT 1) AS one
  LEFT JOIN pglogical.local_node AS here ON true
  LEFT JOIN pglogical.node AS n ON n.node_id = here.node_id
  LEFT JOIN pglogical.node_interface AS i ON i.if_id = here.node_local_interface
