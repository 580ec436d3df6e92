-- log_reader
-- Has the log been read before, and what of it is lost? Reads only.
SELECT r.begun, r.gap FROM pgaa.log_reader AS r
