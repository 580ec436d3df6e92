-- Gives the node $1 an interface named $2 with the DSN $3. Fails when the name is taken.
SELECT pglogical.alter_node_add_interface($1::name, $2::name, $3)
