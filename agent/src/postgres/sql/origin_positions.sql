-- origin_positions
-- For each replication origin the last of its commits that this server applied in WAL that
-- begins at $1 and ends at or before $2, from the WAL itself: exact, whatever is being applied
-- meanwhile. Needs pg_walinspect. Reads only.
WITH commits AS (
    SELECT r.end_lsn,
           pg_catalog.regexp_match(r.description,
               'origin: node ([0-9]+), lsn ([0-9A-F]+/[0-9A-F]+)') AS origin
      FROM pg_get_wal_records_info($1, $2) AS r
     WHERE r.resource_manager = 'Transaction' AND r.record_type LIKE 'COMMIT%'
)
SELECT DISTINCT ON (o.roname) o.roname, (c.origin)[2]::pg_catalog.pg_lsn
  FROM commits AS c
  JOIN pg_catalog.pg_replication_origin AS o ON o.roident = (c.origin)[1]::oid
 WHERE c.end_lsn <= $2
 ORDER BY o.roname, c.end_lsn DESC
