-- The tables in the replication set $1 of the local node. Reads only.
SELECT t.set_reloid::oid
  FROM pglogical.replication_set_table AS t
  JOIN pglogical.replication_set AS s ON s.set_id = t.set_id
  JOIN pglogical.local_node AS here ON here.node_id = s.set_nodeid
 WHERE s.set_name = $1
