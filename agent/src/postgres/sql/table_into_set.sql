-- Puts the table with the OID $2 into the replication set $1, without copying anything.
SELECT pglogical.replication_set_add_table($1::name, $2::oid::regclass, false)
