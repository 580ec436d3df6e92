-- Lines of pg_hba.conf that the server can't read. Reads only.
SELECT pg_catalog.format('pg_hba.conf:%s: %s', h.line_number, h.error)
  FROM pg_catalog.pg_hba_file_rules AS h
 WHERE h.error IS NOT NULL
