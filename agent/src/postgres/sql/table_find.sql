-- The table $1 ("schema.table", quoted where needed): its OID, and whether it is in the
-- replication set $2 already. Reads only.
SELECT c.oid,
       EXISTS (SELECT FROM pglogical.replication_set_table AS t
                 JOIN pglogical.replication_set AS s ON s.set_id = t.set_id
                 JOIN pglogical.local_node AS here ON here.node_id = s.set_nodeid
                WHERE s.set_name = $2::name AND t.set_reloid::oid = c.oid)
  FROM pg_catalog.pg_class AS c
 WHERE c.oid = pg_catalog.to_regclass($1)::oid AND c.relkind = 'r'
