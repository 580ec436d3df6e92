-- Notes a repair: table $1, key $2, rule $3, what was there $4, what is there now $5 (JSON), whose
-- version it is $6, and when that was committed $7 (microseconds). Huge rows are not kept.
INSERT INTO pgaa.repairs (relation, key, rule, before, after, author, committed_at)
SELECT $1, $2, $3,
       CASE WHEN pg_catalog.octet_length($4) < 100000 THEN $4::text::jsonb END,
       CASE WHEN pg_catalog.octet_length($5) < 100000 THEN $5::text::jsonb END,
       $6, 'epoch'::timestamptz + $7::int8 * interval '1 microsecond'
