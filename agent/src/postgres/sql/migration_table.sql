-- The schema of ours and the list of migrations that were made. May be run again.
CREATE SCHEMA IF NOT EXISTS pgaa;
COMMENT ON SCHEMA pgaa IS 'pgaa-agent: local state of this node; not for applications';
CREATE TABLE IF NOT EXISTS pgaa.migration (
    number int4 PRIMARY KEY,
    name text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT pg_catalog.now()
)
