-- Mints another data epoch, and returns it: what this database held is to be replaced. Rows that it
-- named are nobody's any more. Not idempotent.
WITH forgotten AS (DELETE FROM pgaa.suspects)
UPDATE pgaa.local SET epoch = pg_catalog.gen_random_uuid() RETURNING epoch
