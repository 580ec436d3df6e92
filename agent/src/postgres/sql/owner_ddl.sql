-- Writes what creates the role $1, the owner of the database, when there is none: it may log in,
-- and has no password until the operator gives it one.
SELECT pg_catalog.format('CREATE ROLE %I LOGIN', w.role)
  FROM (SELECT $1::text AS role) AS w
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname = w.role)
