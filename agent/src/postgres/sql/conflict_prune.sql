-- conflict_prune
-- Removes conflicts that are older than $1 days, and the oldest beyond $2: some thousand at a time.
WITH old AS (
    SELECT h.conflict_id FROM pgaa.conflict_history AS h
     WHERE h.local_conflict_time < pg_catalog.now() - $1::float8 * interval '1 day'
        OR h.conflict_id <= (SELECT pg_catalog.max(m.conflict_id) FROM pgaa.conflict_history AS m) - $2::int8
     ORDER BY h.conflict_id
     LIMIT 10000
), tallies AS (
    DELETE FROM pgaa.conflict_tally AS t
     WHERE t.since < pg_catalog.now() - $1::float8 * interval '1 day'
)
DELETE FROM pgaa.conflict_history AS h USING old WHERE h.conflict_id = old.conflict_id
RETURNING 1
