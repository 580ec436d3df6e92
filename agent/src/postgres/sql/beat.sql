-- Writes the heartbeat of node $1, epoch $2, with a number above both the last one and the floor
-- $3; returns it. Delete and insert, not update: an update of a row that a subscriber lacks
-- would be skipped there for ever. The insert depends on the delete, so it comes second. The
-- commit is flushed as synchronous_commit = $4 says.
WITH gone AS (
    DELETE FROM pgaa.heartbeat AS h WHERE h.node = $1 RETURNING h.number
), flush AS MATERIALIZED (
    SELECT pg_catalog.set_config('synchronous_commit', $4, true) AS set
)
INSERT INTO pgaa.heartbeat (node, epoch, number, sent_at)
SELECT $1, $2,
       greatest(coalesce((SELECT pg_catalog.max(g.number) FROM gone AS g), 0) + 1, $3::int8 + 1),
       pg_catalog.clock_timestamp()
  FROM flush
RETURNING number
