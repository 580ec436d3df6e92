-- log_gap_close
-- All tables were compared in the last $1 seconds, and are equal: a gap in the log that is older
-- has left nothing unnamed. Returns whether there is none now.
UPDATE pgaa.log_reader AS r
   SET gap = CASE WHEN k.open THEN r.gap END,
       gap_at = CASE WHEN k.open THEN r.gap_at END
  FROM (SELECT l.gap_at IS NOT NULL
               AND l.gap_at > pg_catalog.now() - $1::float8 * interval '1 s' AS open
          FROM pgaa.log_reader AS l) AS k
RETURNING r.gap IS NULL
