-- log_gap_close
-- All tables were compared in the last $1 seconds, and are equal; or, where that is NULL, they were
-- named when the gap was noted, and are compared by now if nothing is named any more: an older gap
-- in the log has left nothing unnamed. Returns whether there is none now.
UPDATE pgaa.log_reader AS r
   SET gap = CASE WHEN k.open THEN r.gap END,
       gap_at = CASE WHEN k.open THEN r.gap_at END
  FROM (SELECT CASE WHEN $1::float8 IS NULL
                    THEN EXISTS (SELECT FROM pgaa.suspects)
                    ELSE l.gap_at > pg_catalog.now() - $1::float8 * interval '1 s'
                END AND l.gap_at IS NOT NULL AS open
          FROM pgaa.log_reader AS l) AS k
RETURNING r.gap IS NULL
