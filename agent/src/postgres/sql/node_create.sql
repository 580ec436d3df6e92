-- Creates the local pglogical node $1 with the DSN $2. Fails when there is one.
SELECT pglogical.create_node($1::name, $2)
