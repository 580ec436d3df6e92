-- conflicts_hot
-- What has the most conflicts since $1 (milliseconds since 1970): tables, keys, pairs of nodes, ten
-- of each at most, filtered as single ones are. $5 is this node's name, whose rows those are that aren't here.
-- Reads only.
WITH met AS MATERIALIZED (
    SELECT h.object_schema || '.' || h.object_name AS object, h.object_key,
           least(h.remote_node_name, coalesce(h.local_tuple_origin_name, $5)) || ' - '
               || greatest(h.remote_node_name, coalesce(h.local_tuple_origin_name, $5)) AS pair
      FROM pgaa.conflict_history AS h
     CROSS JOIN pgaa.local AS l
     WHERE h.local_conflict_time >= timestamptz '1970-01-01 00:00:00+00' + $1::int8 * interval '1 ms'
       AND h.conflict_type <> 'apply_error'
       AND ($2::text IS NULL OR h.object_name = $2 OR h.object_schema || '.' || h.object_name = $2)
       AND ($3::uuid IS NULL
            OR (h.remote_node IN ($3, $4) AND h.remote_node <> coalesce(h.local_tuple_origin, l.node)
                AND coalesce(h.local_tuple_origin, l.node) IN ($3, $4)))
)
(SELECT 'table', s.object, pg_catalog.count(*) FROM met AS s
  GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT 10)
UNION ALL
(SELECT 'key', s.object || ' ' || s.object_key, pg_catalog.count(*) FROM met AS s
  WHERE s.object_key IS NOT NULL GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT 10)
UNION ALL
(SELECT 'pair', s.pair, pg_catalog.count(*) FROM met AS s
  WHERE s.pair IS NOT NULL GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT 10)
