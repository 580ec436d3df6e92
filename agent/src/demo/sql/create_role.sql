-- The demo's own role, for its psql lines. Not idempotent: the server is new.
-- psql binds :password; the script comes over standard input, so that no other process sees it.
SET log_statement = 'none';
CREATE ROLE demo SUPERUSER LOGIN PASSWORD :'password';
