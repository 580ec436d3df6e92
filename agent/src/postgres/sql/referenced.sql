-- Does a foreign key of any table refer to the table $1 ('schema.table', quoted where needed)? Reads
-- only.
SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint AS k
                WHERE k.contype = 'f' AND k.confrelid = pg_catalog.to_regclass($1))
