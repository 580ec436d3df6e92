-- applying_session
-- This transaction is the one of the provider of the subscription $1 that ends at $2 there and was
-- committed at $3 (microseconds): with its commit the subscription is behind it. Its worker must not
-- run. No trigger fires, and nothing of it is sent on.
SELECT pg_catalog.pg_replication_origin_session_setup(s.sub_slot_name::text),
       pg_catalog.pg_replication_origin_xact_setup(
           $2, 'epoch'::timestamptz + $3::int8 * interval '1 microsecond'),
       pg_catalog.set_config('session_replication_role', 'replica', false)
  FROM pglogical.subscription AS s
 WHERE s.sub_name = $1::name
