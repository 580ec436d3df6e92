-- Writes the node $1 into pgaa.local when none is there; returns who is there now, and the epoch.
-- Idempotent.
WITH claimed AS (
    UPDATE pgaa.local AS l SET node = $1 WHERE l.node IS NULL RETURNING l.node
)
SELECT coalesce((SELECT c.node FROM claimed AS c), l.node), l.epoch
  FROM pgaa.local AS l
