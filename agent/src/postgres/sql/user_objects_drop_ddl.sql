-- user_objects_drop_ddl
-- Writes the statements that empty this database of the user's schemas before a copy begins anew.
-- Only for a node that never took a write as a member. Our own and pglogical's schema stay.
SELECT pg_catalog.format('DROP SCHEMA %I CASCADE', n.nspname)
  FROM pg_catalog.pg_namespace AS n
 WHERE n.nspname !~ '^pg_'
   AND n.nspname NOT IN ('information_schema', 'pgaa', 'pglogical')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    WHERE d.classid = 'pg_catalog.pg_namespace'::regclass
                      AND d.objid = n.oid AND d.deptype = 'e')
