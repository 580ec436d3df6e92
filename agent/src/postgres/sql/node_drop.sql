-- Drops the local pglogical node, with its replication sets, if there is one. Fails while it has
-- subscriptions. Idempotent.
SELECT pglogical.drop_node(n.node_name, true)
  FROM pglogical.local_node AS here
  JOIN pglogical.node AS n ON n.node_id = here.node_id
