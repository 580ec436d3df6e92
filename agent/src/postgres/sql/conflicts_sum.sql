-- conflicts_sum
-- How many lines, conflicts and unsure ones since $1 (milliseconds since 1970), of the table $2 and
-- between the nodes $3 and $4 where they aren't NULL. Reads only.
SELECT coalesce(pg_catalog.sum(t.lines), 0)::int8, coalesce(pg_catalog.sum(t.conflicts), 0)::int8,
       coalesce(pg_catalog.sum(t.unsure), 0)::int8,
       (SELECT pg_catalog.count(*) FROM pgaa.conflict_history AS h CROSS JOIN pgaa.local AS l
         WHERE NOT h.clock_trusted
           AND h.local_conflict_time >= timestamptz '1970-01-01 00:00:00+00' + $1::int8 * interval '1 ms'
           AND ($2::text IS NULL OR h.object_name = $2 OR h.object_schema || '.' || h.object_name = $2)
           AND ($3::uuid IS NULL OR (h.remote_node IN ($3, $4) AND coalesce(h.local_tuple_origin, l.node) IN ($3, $4))))
  FROM pgaa.conflict_tally AS t
 WHERE t.since > timestamptz '1970-01-01 00:00:00+00' + $1::int8 * interval '1 ms' - interval '10 minutes'
   AND ($2::text IS NULL OR t.object_name = $2 OR t.object_schema || '.' || t.object_name = $2)
   AND ($3::uuid IS NULL OR (t.remote_node IN ($3, $4) AND t.local_tuple_origin IN ($3, $4)))
