-- The demo's table, the same on every node. Idempotent.
CREATE TABLE IF NOT EXISTS public.demo_rows (
    node text NOT NULL,
    note text NOT NULL,
    at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid()
)
