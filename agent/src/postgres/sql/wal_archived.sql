-- The last segment that was archived, and the last attempt's failure if it is newer. Reads only.
SELECT pg_catalog.left(last_archived_wal, 24),
       CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity')
            THEN pg_catalog.left(last_failed_wal, 24) END
  FROM pg_catalog.pg_stat_archiver
