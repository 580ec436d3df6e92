-- The lines of the configuration files as the server reads them. Reads only.
SELECT coalesce(f.sourcefile, ''), coalesce(f.sourceline, 0), f.name, f.setting, f.error
  FROM pg_catalog.pg_file_settings AS f
