-- Lets the subscription $1 use the interface named $2; its worker reconnects. Idempotent.
SELECT pglogical.alter_subscription_interface($1::name, $2::name)
