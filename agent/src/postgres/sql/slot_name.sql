-- The name pglogical gives the slot, on the provider node $1, of the subscription $2. All
-- databases of the mesh have one name. Reads only.
SELECT pglogical.pglogical_gen_slot_name(pg_catalog.current_database(), $1::name, $2::name)::text
