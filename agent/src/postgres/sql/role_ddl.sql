-- Writes what makes $1 a role that other nodes' servers can log in with and subscribe through:
-- a superuser, because pglogical needs one; without a password, because certificates log in.
-- Nothing is written when it is right.
SELECT CASE WHEN r.oid IS NULL
            THEN pg_catalog.format('CREATE ROLE %I LOGIN SUPERUSER REPLICATION PASSWORD NULL', w.role)
            WHEN NOT (r.rolsuper AND r.rolcanlogin AND r.rolreplication)
            THEN pg_catalog.format('ALTER ROLE %I LOGIN SUPERUSER REPLICATION', w.role)
       END
  FROM (SELECT $1::text AS role) AS w
  LEFT JOIN pg_catalog.pg_roles AS r ON r.rolname = w.role
