-- Refuses schema changes until $2 (seconds since 1970 UTC), because the node $1 joins. Idempotent.
INSERT INTO pgaa.joining (joiner, until) VALUES ($1, pg_catalog.to_timestamp($2))
    ON CONFLICT (only_row) DO UPDATE SET joiner = excluded.joiner, until = excluded.until
