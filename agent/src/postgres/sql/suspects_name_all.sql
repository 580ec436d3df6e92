-- Names all replicated tables, to be compared as a whole; $1 says why. The digests are those that
-- suspects_name gives to whole tables.
INSERT INTO pgaa.suspects AS s (relation, digest, key, cut, named_by, named_at)
SELECT DISTINCT pg_catalog.format('%I.%I', n.nspname, c.relname),
       pg_catalog.md5('[]true')::uuid, '{}'::text[], true, $1, pg_catalog.clock_timestamp()
  FROM pglogical.tables AS t
  JOIN pg_catalog.pg_class AS c ON c.oid = t.relid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE t.set_name = 'default' AND n.nspname <> 'pgaa'
    ON CONFLICT (relation, digest) DO UPDATE
   SET named_at = excluded.named_at,
       named_by = excluded.named_by
