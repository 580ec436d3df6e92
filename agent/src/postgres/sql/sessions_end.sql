-- Ends the sessions of applications in this database: client connections of roles that are
-- neither superusers nor the mesh's. Returns how many.
SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(a.pid))
  FROM pg_catalog.pg_stat_activity AS a
  JOIN pg_catalog.pg_roles AS r ON r.oid = a.usesysid
 WHERE a.datname = pg_catalog.current_database()
   AND a.backend_type = 'client backend'
   AND a.pid <> pg_catalog.pg_backend_pid()
   AND a.usename <> $1::name
   AND NOT r.rolsuper
