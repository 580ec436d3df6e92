-- Changes the DSN of the interface $1 to $2. pglogical has no function for it, and reads the
-- table anew each time. Idempotent.
UPDATE pglogical.node_interface AS i SET if_dsn = $2 WHERE i.if_id = $1
