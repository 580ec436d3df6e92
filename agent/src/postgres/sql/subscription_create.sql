-- Creates the subscription $1 to the DSN $2, of the sets $3, forwarding the origins $4, without
-- any copying. Enabled from the commit on. Fails when it exists.
SELECT pglogical.create_subscription($1::name, $2, $3::text[], false, false, $4::text[])
