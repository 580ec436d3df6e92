-- Too many rows are named to look at each: their tables are compared as a whole instead. With the
-- names go the times of own deletes.
WITH gone AS (
    DELETE FROM pgaa.suspects AS s RETURNING s.relation
), known AS (
    UPDATE pgaa.deletes_known AS d SET since = pg_catalog.clock_timestamp()
)
SELECT DISTINCT g.relation FROM gone AS g
