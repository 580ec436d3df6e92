-- What archiving does and what waits for it; times are Unix milliseconds. Reads only.
SELECT pg_catalog.current_setting('archive_mode') <> 'off',
       pg_catalog.current_setting('archive_command'),
       pg_catalog.current_setting('archive_library'),
       coalesce((SELECT s.sourcefile || ':' || s.sourceline
                   FROM pg_catalog.pg_settings AS s
                  WHERE s.name = CASE WHEN pg_catalog.current_setting('archive_library') = ''
                                      THEN 'archive_command' ELSE 'archive_library' END), ''),
       (SELECT s.setting::int8 FROM pg_catalog.pg_settings AS s WHERE s.name = 'wal_segment_size'),
       w.waiting,
       w.oldest_ms,
       (extract(epoch FROM a.last_archived_time) * 1000)::int8,
       a.last_archived_wal,
       (extract(epoch FROM a.last_failed_time) * 1000)::int8,
       a.last_failed_wal
  FROM pg_catalog.pg_stat_archiver AS a,
       (SELECT pg_catalog.count(*) AS waiting,
               (extract(epoch FROM min(d.modification)) * 1000)::int8 AS oldest_ms
          FROM pg_catalog.pg_ls_archive_statusdir() AS d
         WHERE d.name LIKE '%.ready') AS w
