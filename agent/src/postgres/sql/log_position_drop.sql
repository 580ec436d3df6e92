-- log_position_drop
-- The file $1 with inode $2 is gone.
DELETE FROM pgaa.log_position WHERE name = $1 AND inode = $2
