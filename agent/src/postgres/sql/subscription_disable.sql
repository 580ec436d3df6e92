-- Disables the subscription $1. Its worker ends after the commit. Idempotent.
SELECT pglogical.alter_subscription_disable($1::name, false)
