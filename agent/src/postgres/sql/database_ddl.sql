-- Writes what creates the database $1 with the owner $2 when there is none, in UTF8 with the
-- cluster's locale. template0: what others put into template1 must not differ between nodes.
SELECT pg_catalog.format('CREATE DATABASE %I OWNER %I TEMPLATE template0 ENCODING ''UTF8''',
           w.name, w.owner)
  FROM (SELECT $1::text AS name, $2::text AS owner) AS w
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_database AS d WHERE d.datname = w.name)
