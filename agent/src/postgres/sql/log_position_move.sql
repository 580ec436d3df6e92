-- log_position_move
-- The file $1 with inode $2, so far read to $3, was read to $4. No row where somebody else has
-- read on.
UPDATE pgaa.log_position SET read_to = $4, ended = $5
 WHERE name = $1 AND inode = $2 AND read_to = $3
RETURNING 1
