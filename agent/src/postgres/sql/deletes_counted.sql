-- How many rows were deleted from replicated tables here, by anybody. Reads only.
SELECT coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_deleted(t.relid)), 0)::int8
  FROM pglogical.tables AS t
 WHERE t.set_name = 'default'
