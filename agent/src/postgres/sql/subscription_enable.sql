-- Enables the subscription $1; on an enabled one that is down it ends pglogical's waiting, and
-- it reconnects at once. Idempotent. Kills a worker that has just attached: not for impatience.
SELECT pglogical.alter_subscription_enable($1::name, false)
