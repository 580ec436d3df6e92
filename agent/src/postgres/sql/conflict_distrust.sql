-- conflict_distrust
-- Marks conflicts between the nodes $1 and $2, decided by the times of their commits, of which
-- one lies in the time from $3 to $4 (milliseconds since 1970; NULL: until now). Returns how many.
WITH marked AS (
    UPDATE pgaa.conflict_history AS h SET clock_trusted = false
     WHERE h.clock_trusted
       AND h.conflict_type IN ('insert_insert', 'update_update')
       AND ((h.remote_node = $1 AND h.local_tuple_origin = $2)
         OR (h.remote_node = $2 AND h.local_tuple_origin = $1))
       AND (h.remote_commit_time BETWEEN timestamptz '1970-01-01 00:00:00+00' + $3::int8 * interval '1 ms'
                AND coalesce(timestamptz '1970-01-01 00:00:00+00' + $4::int8 * interval '1 ms', 'infinity')
         OR h.local_commit_time BETWEEN timestamptz '1970-01-01 00:00:00+00' + $3::int8 * interval '1 ms'
                AND coalesce(timestamptz '1970-01-01 00:00:00+00' + $4::int8 * interval '1 ms', 'infinity'))
     RETURNING 1
)
SELECT pg_catalog.count(*) FROM marked
