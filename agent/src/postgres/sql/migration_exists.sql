-- Is the list of migrations there? Reads only.
SELECT pg_catalog.to_regclass('pgaa.migration') IS NOT NULL
