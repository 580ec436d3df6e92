-- copy_stamp
-- Rows of this transaction look older than anything that is on its way here, so that
-- last-update-wins prefers every real change. Not 2000-01-01: in UTC that is PostgreSQL's epoch,
-- 0, and counts as unset.
SELECT pg_catalog.pg_replication_origin_xact_setup('0/1', '2000-01-02 00:00:00+00')
