-- log_place
-- Where the server logs, whether conflicts get there, and whose decision that was. $1 is how the
-- name of our configuration file ends. Reads only.
SELECT d.oid,
       pg_catalog.current_setting('data_directory'),
       pg_catalog.current_setting('log_directory'),
       pg_catalog.pg_current_logfile('jsonlog'),
       pg_catalog.current_setting('log_error_verbosity') <> 'terse'
           AND pg_catalog.current_setting('log_min_messages') NOT IN ('fatal', 'panic'),
       (SELECT pg_catalog.count(*) = 2 FROM pg_catalog.pg_settings AS s
         WHERE s.name IN ('log_directory', 'log_filename')
           AND pg_catalog.right(s.sourcefile, pg_catalog.length($1)) = $1)
  FROM pg_catalog.pg_database AS d
 WHERE d.datname = pg_catalog.current_database()
