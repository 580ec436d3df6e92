-- Every setting with its source. Reads only.
SELECT s.name, s.setting, s.unit, s.context, s.source, s.sourcefile, s.sourceline,
       s.pending_restart
  FROM pg_catalog.pg_settings AS s
