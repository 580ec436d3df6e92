-- What a join asks of a server. $1: does it join (else it is a member)? $2: how old, in seconds,
-- a transaction must be to be told of. A new slot waits for every transaction that has an id.
-- Extensions: on a joiner those that can be created, on a member those in use. Reads only.
SELECT pg_catalog.current_setting('server_version_num')::int4,
       pg_catalog.concat_ws(', ', pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype),
       coalesce(pg_catalog.pg_database_collation_actual_version(d.oid), ''),
       pg_catalog.pg_database_size(d.oid),
       pg_catalog.current_setting('max_replication_slots')::int4
           - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots)::int4,
       pg_catalog.current_setting('max_wal_senders')::int4
           - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication)::int4,
       pg_catalog.current_setting('max_worker_processes')::int4
           - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity AS w
               WHERE w.backend_type LIKE 'pglogical%'
                  OR w.backend_type IN ('parallel worker', 'logical replication launcher',
                                        'logical replication worker'))::int4,
       EXISTS (SELECT FROM pg_catalog.pg_extension AS e WHERE e.extname = 'pg_walinspect'),
       ARRAY(SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
               FROM pglogical.tables AS t
               JOIN pg_catalog.pg_class AS c ON c.oid = t.relid
               JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
              WHERE t.set_name = 'default'),
       ARRAY(SELECT pg_catalog.format('pid %s (%s, %s), %s s', a.pid, a.usename, a.application_name,
                        pg_catalog.floor(extract(epoch FROM
                            pg_catalog.clock_timestamp() - a.xact_start)))
               FROM pg_catalog.pg_stat_activity AS a
              WHERE a.backend_xid IS NOT NULL
                AND a.xact_start < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $2)),
       ARRAY(SELECT pg_catalog.format('%s, of %s', p.gid, p.owner)
               FROM pg_catalog.pg_prepared_xacts AS p),
       CASE WHEN $1 THEN ARRAY(SELECT a.name::text FROM pg_catalog.pg_available_extensions AS a)
            ELSE ARRAY(SELECT e.extname::text FROM pg_catalog.pg_extension AS e) END,
       coalesce(d.datcollversion, '')
  FROM pg_catalog.pg_database AS d
 WHERE d.datname = pg_catalog.current_database()
