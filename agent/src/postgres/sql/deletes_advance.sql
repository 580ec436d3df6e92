-- What slot $1 remembers up to $2 is needed no more.
SELECT pg_catalog.pg_replication_slot_advance($1, $2)
