-- From now on this node knows its own deletes; from its beginning if $1.
INSERT INTO pgaa.deletes_known AS d (since)
VALUES (CASE WHEN $1 THEN NULL ELSE pg_catalog.clock_timestamp() END)
    ON CONFLICT (only_row) DO UPDATE SET since = excluded.since
