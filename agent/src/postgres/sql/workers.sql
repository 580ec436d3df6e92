-- pglogical's supervisor and this database's manager, which start apply workers, and how many
-- of the subscriptions $1 have none yet. Reads only.
WITH activity AS MATERIALIZED (
    SELECT v.pid, v.backend_type FROM pg_catalog.pg_stat_activity AS v
     WHERE v.backend_type LIKE 'pglogical %'
), here AS (
    SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()
)
SELECT (SELECT a.pid FROM activity AS a WHERE a.backend_type = 'pglogical supervisor'),
       (SELECT a.pid FROM activity AS a, here
         WHERE a.backend_type = pg_catalog.format('pglogical manager %s', here.oid)),
       ARRAY(SELECT s.sub_name::text FROM pglogical.subscription AS s, here
              WHERE s.sub_name = ANY ($1::name[])
                AND NOT EXISTS (SELECT FROM activity AS a WHERE a.backend_type =
                        pg_catalog.format('pglogical apply %s:%s', here.oid, s.sub_id)))
