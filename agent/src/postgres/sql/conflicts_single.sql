-- conflicts_single
-- Single conflicts since $1 (milliseconds since 1970), newest first: of the table $2 where it
-- isn't NULL, between the nodes $3 and $4 where they aren't; a row that isn't here is
-- this node's, $5 at most. Reads only.
SELECT h.conflict_id,
       (extract(epoch FROM h.local_conflict_time) * 1000)::int8,
       h.object_schema, h.object_name, h.object_key,
       coalesce(h.remote_node_name, ''), h.remote_txid::text::int8,
       (extract(epoch FROM h.remote_commit_time) * 1000)::int8, h.remote_commit_lsn,
       h.conflict_type, h.conflict_resolution, h.local_tuple_origin_name,
       (extract(epoch FROM h.local_commit_time) * 1000)::int8,
       h.concurrent, h.clock_trusted, h.local_tuple::text, h.remote_tuple::text
  FROM pgaa.conflict_history AS h
 CROSS JOIN pgaa.local AS l
 WHERE h.local_conflict_time >= timestamptz '1970-01-01 00:00:00+00' + $1::int8 * interval '1 ms'
   AND h.conflict_type <> 'apply_error'
   AND ($2::text IS NULL OR h.object_name = $2 OR h.object_schema || '.' || h.object_name = $2)
   AND ($3::uuid IS NULL
        OR (h.remote_node IN ($3, $4) AND h.remote_node <> coalesce(h.local_tuple_origin, l.node)
            AND coalesce(h.local_tuple_origin, l.node) IN ($3, $4)))
 ORDER BY h.conflict_id DESC
 LIMIT $5::int8
