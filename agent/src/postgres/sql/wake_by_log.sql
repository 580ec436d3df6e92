-- Wakes the process $1 by SIGUSR1, at the price of lines in its log.
SELECT pg_catalog.pg_log_backend_memory_contexts($1)
