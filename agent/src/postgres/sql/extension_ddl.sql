-- Writes what creates the extension $1 when the server offers it and the database lacks it.
SELECT pg_catalog.format('CREATE EXTENSION %I', a.name)
  FROM pg_catalog.pg_available_extensions AS a
 WHERE a.name = $1 AND a.installed_version IS NULL
