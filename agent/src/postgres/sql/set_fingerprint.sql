-- A number that changes with the membership of tables in replication sets. Reads only.
SELECT coalesce(sum(pg_catalog.hashint8extended(t.set_reloid::int8, t.set_id::int8)), 0)::text
  FROM pglogical.replication_set_table AS t
