-- Is this server's WAL archived by pgBackRest? Reads only.
SELECT pg_catalog.current_setting('archive_mode') <> 'off'
   AND pg_catalog.current_setting('archive_command') LIKE '%archive-push%'
