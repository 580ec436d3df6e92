-- Subscriptions of the local node, and whether their apply workers run. Reads only.
-- pglogical names a worker's process "pglogical apply <database>:<subscription>".
WITH activity AS MATERIALIZED (
    SELECT v.backend_type
      FROM pg_catalog.pg_stat_activity AS v
     WHERE v.backend_type LIKE 'pglogical apply %'
)
SELECT s.sub_name,
       n.node_name,
       s.sub_slot_name,
       s.sub_enabled,
       EXISTS (SELECT FROM activity AS a
                WHERE a.backend_type = pg_catalog.format('pglogical apply %s:%s', d.oid, s.sub_id)),
       coalesce(pg_catalog.cardinality(s.sub_forward_origins), 0) = 0,
       (SELECT y.sync_status FROM pglogical.local_sync_status AS y
         WHERE y.sync_subid = s.sub_id AND y.sync_nspname IS NULL),
       EXISTS (SELECT FROM pg_catalog.pg_replication_origin AS o
                WHERE o.roname = s.sub_slot_name::text),
       i.if_dsn,
       coalesce((SELECT t.remote_lsn FROM pg_catalog.pg_replication_origin_status AS t
                  WHERE t.external_id = s.sub_slot_name::text), '0/0')
  FROM pglogical.subscription AS s
  JOIN pglogical.local_node AS here ON here.node_id = s.sub_target
  JOIN pglogical.node AS n ON n.node_id = s.sub_origin
  JOIN pglogical.node_interface AS i ON i.if_id = s.sub_origin_if
  JOIN pg_catalog.pg_database AS d ON d.datname = pg_catalog.current_database()
