-- Two numbers that change when the structure of user objects changes: every DDL writes new
-- versions (xmin) of catalogue rows, VACUUM and ANALYZE don't. Objects of the user have OIDs
-- from 16384 on. Temporary tables are left out of the first number, which is enough for most
-- applications that make them. Reads only.
SELECT coalesce((SELECT sum(pg_catalog.hashint8extended(c.xmin::text::int8, c.oid::int8))
                   FROM pg_catalog.pg_class AS c
                  WHERE c.oid >= 16384 AND c.relpersistence <> 't'), 0)::text,
       coalesce((SELECT sum(pg_catalog.hashint8extended(a.xmin::text::int8,
                            a.attrelid::int8 * 2000 + a.attnum))
                   FROM pg_catalog.pg_attribute AS a
                  WHERE a.attrelid >= 16384 AND a.attnum > 0), 0)::text
    || coalesce((SELECT sum(pg_catalog.hashint8extended(q.xmin::text::int8, q.seqrelid::int8))
                   FROM pg_catalog.pg_sequence AS q), 0)::text
