-- What tells that rows may have gone from replicated tables here, by anybody: how many were deleted,
-- and where the tables' files are, because a TRUNCATE counts no row. Reads only.
SELECT coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_deleted(t.relid)), 0)::int8,
       coalesce(pg_catalog.sum(pg_catalog.pg_relation_filenode(t.relid)::int8), 0)::int8
  FROM pglogical.tables AS t
 WHERE t.set_name = 'default'
