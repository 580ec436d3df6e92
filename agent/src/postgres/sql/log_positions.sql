-- log_positions
-- How far each file of the log was read. Reads only.
SELECT p.name, p.inode, p.read_to, p.ended FROM pgaa.log_position AS p
