-- Takes the table with the OID $2 out of the replication set $1.
SELECT pglogical.replication_set_remove_table($1::name, $2::oid::regclass)
