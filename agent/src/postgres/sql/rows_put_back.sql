-- Writes what moves the rows back (see rows_set_aside), and ends the special role.
SELECT pg_catalog.format(
           'INSERT INTO %1$I.%2$I (%3$s) OVERRIDING SYSTEM VALUE '
           'SELECT %3$s FROM pg_temp.pgaa_aside; '
           'SET LOCAL session_replication_role = origin', n.nspname, c.relname,
           (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
              FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               AND a.attgenerated = ''))
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid = $1
