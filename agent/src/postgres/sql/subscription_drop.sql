-- Drops the subscription $1 and, when the provider answers, its slot there. Idempotent.
SELECT pglogical.drop_subscription($1::name, true)
