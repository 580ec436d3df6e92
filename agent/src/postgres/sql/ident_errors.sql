-- Lines of pg_ident.conf that the server can't read (PostgreSQL 15 and later). Reads only.
SELECT pg_catalog.format('pg_ident.conf:%s: %s', m.line_number, m.error)
  FROM pg_catalog.pg_ident_file_mappings AS m
 WHERE m.error IS NOT NULL
