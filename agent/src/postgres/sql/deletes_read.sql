-- What this node itself has deleted, by slot $1, up to $2 and some $3 changes, $4 deletes at most:
-- how many changes were read, the end of the last transaction among them, then the deletes and
-- their commit times in microseconds. The slot stays where it is.
WITH changes AS MATERIALIZED (
    SELECT c.lsn, c.xid, c.data
      FROM pg_catalog.pg_logical_slot_peek_changes($1, $2, $3, 'only-local', 'true',
               'skip-empty-xacts', 'true', 'include-timestamp', 'true') AS c
), commits AS (
    SELECT c.lsn, c.xid,
           (extract(epoch FROM pg_catalog.substring(c.data, '\(at (.*)\)$')::timestamptz)
               * 1000000)::int8 AS at_us
      FROM changes AS c
     WHERE c.data LIKE 'COMMIT %'
), gone AS (
    SELECT c.data, t.at_us
      FROM changes AS c
      JOIN commits AS t ON t.xid = c.xid
     WHERE c.data LIKE 'table %' AND c.data NOT LIKE 'table pgaa.%'
       AND c.data ~ ': (DELETE:|TRUNCATE:|UPDATE: old-key:)'
     LIMIT $4
)
SELECT (SELECT pg_catalog.count(*) FROM changes),
       (SELECT pg_catalog.max(t.lsn) FROM commits AS t),
       coalesce((SELECT pg_catalog.array_agg(g.data) FROM gone AS g), '{}'),
       coalesce((SELECT pg_catalog.array_agg(g.at_us) FROM gone AS g), '{}')
