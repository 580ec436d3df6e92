-- own_edges
-- Every subscription of the local node, and every slot that pglogical reads here. Reads only.
SELECT ARRAY(SELECT s.sub_name::text FROM pglogical.subscription AS s),
       ARRAY(SELECT r.slot_name::text FROM pg_catalog.pg_replication_slots AS r
              WHERE r.plugin = 'pglogical_output'
                AND r.database = pg_catalog.current_database())
