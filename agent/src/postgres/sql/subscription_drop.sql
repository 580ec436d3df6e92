-- Drops the subscription $1. Idempotent.
SELECT pglogical.drop_subscription($1::name, true)
