-- log_reader_set
-- Notes that the log is being read, and the gap $1 in it, where there is one. An older gap stays
-- until all tables were compared.
UPDATE pgaa.log_reader
   SET begun = true,
       gap = coalesce(gap, $1),
       gap_at = CASE WHEN $1::text IS NULL THEN gap_at ELSE pg_catalog.now() END
 WHERE NOT begun OR $1::text IS NOT NULL
