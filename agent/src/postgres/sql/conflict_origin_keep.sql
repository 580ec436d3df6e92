-- conflict_origin_keep
-- Keeps that the origin with the number $1 belongs to the node $2.
INSERT INTO pgaa.origin_node (number, node) VALUES ($1, $2)
ON CONFLICT (number) DO UPDATE SET node = EXCLUDED.node
