-- conflict_tally_add
-- Adds counts, a JSON array of objects.
INSERT INTO pgaa.conflict_tally AS t (
    since, object_schema, object_name, remote_node, local_tuple_origin, conflict_type,
    conflict_resolution, lines, conflicts, unsure)
SELECT pg_catalog.date_bin('10 minutes',
           (timestamp '1970-01-01' + c.logged_us * interval '1 microsecond')
               AT TIME ZONE pg_catalog.current_setting('log_timezone'),
           timestamptz '2000-01-01 00:00:00+00') AS since,
       c.schema, c."table", c.remote_node, c.local_node, c.kind, c.resolution,
       pg_catalog.sum(c.lines), pg_catalog.sum(c.conflicts), pg_catalog.sum(c.unsure)
  FROM pg_catalog.json_to_recordset($1::text::json) AS c(
       logged_us int8, schema text, "table" text, remote_node uuid, local_node uuid, kind text,
       resolution text, lines int8, conflicts int8, unsure int8)
 GROUP BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (since, object_schema, object_name, remote_node, local_tuple_origin, conflict_type,
             conflict_resolution)
DO UPDATE SET lines = t.lines + EXCLUDED.lines,
              conflicts = t.conflicts + EXCLUDED.conflicts,
              unsure = t.unsure + EXCLUDED.unsure
