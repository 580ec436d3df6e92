-- conflict_counts
-- Lines, conflicts and unsure ones of the last hour and of the last day. Reads only.
SELECT coalesce(pg_catalog.sum(t.lines) FILTER (WHERE t.since > pg_catalog.now() - interval '70 minutes'), 0)::int8,
       coalesce(pg_catalog.sum(t.conflicts) FILTER (WHERE t.since > pg_catalog.now() - interval '70 minutes'), 0)::int8,
       coalesce(pg_catalog.sum(t.unsure) FILTER (WHERE t.since > pg_catalog.now() - interval '70 minutes'), 0)::int8,
       coalesce(pg_catalog.sum(t.lines), 0)::int8,
       coalesce(pg_catalog.sum(t.conflicts), 0)::int8,
       coalesce(pg_catalog.sum(t.unsure), 0)::int8,
       (SELECT pg_catalog.count(*) FROM pgaa.conflict_history AS h
         WHERE NOT h.clock_trusted AND h.local_conflict_time > pg_catalog.now() - interval '1 hour'),
       (SELECT pg_catalog.count(*) FROM pgaa.conflict_history AS h
         WHERE NOT h.clock_trusted AND h.local_conflict_time > pg_catalog.now() - interval '1 day')
  FROM pgaa.conflict_tally AS t
 WHERE t.since > pg_catalog.now() - interval '1 day'
