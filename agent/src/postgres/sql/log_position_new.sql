-- log_position_new
-- The file $1 with inode $2 was read to $3. Fails where somebody else has begun to read it.
INSERT INTO pgaa.log_position (name, inode, read_to, ended) VALUES ($1, $2, $3, $4)
