-- Puts pgaa.heartbeat into the replication set $1 when it is not in it. Idempotent.
SELECT pglogical.replication_set_add_table($1::name, 'pgaa.heartbeat'::regclass)
 WHERE NOT EXISTS (SELECT FROM pglogical.replication_set_table AS t
                     JOIN pglogical.replication_set AS s ON s.set_id = t.set_id
                     JOIN pglogical.local_node AS here ON here.node_id = s.set_nodeid
                    WHERE s.set_name = $1::name
                      AND t.set_reloid = 'pgaa.heartbeat'::regclass)
