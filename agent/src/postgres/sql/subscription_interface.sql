-- The subscription $1: its provider node's name, the DSN in use, and the name of the provider's
-- interface that has the DSN $2 already, if there is one. Reads only.
SELECT n.node_name::text,
       used.if_dsn,
       (SELECT i.if_name::text FROM pglogical.node_interface AS i
         WHERE i.if_nodeid = n.node_id AND i.if_dsn = $2 LIMIT 1),
       'pgaa_' || pg_catalog.left(pg_catalog.encode(pg_catalog.sha256(
           pg_catalog.convert_to($2, 'UTF8')), 'hex'), 16)
  FROM pglogical.subscription AS s
  JOIN pglogical.node AS n ON n.node_id = s.sub_origin
  JOIN pglogical.node_interface AS used ON used.if_id = s.sub_origin_if
 WHERE s.sub_name = $1::name
