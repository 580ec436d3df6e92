-- Creates the replication set $1 of the local node when it is missing. Idempotent.
SELECT pglogical.create_replication_set($1::name)
 WHERE NOT EXISTS (SELECT FROM pglogical.replication_set AS s
                     JOIN pglogical.local_node AS here ON here.node_id = s.set_nodeid
                    WHERE s.set_name = $1::name)
