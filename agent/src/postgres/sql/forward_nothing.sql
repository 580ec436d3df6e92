-- forward_nothing
-- The subscription $1 asks its provider for that node's own changes alone from now on. There is
-- no function of pglogical's for it; its worker reads this row when it starts. Idempotent.
UPDATE pglogical.subscription SET sub_forward_origins = '{}' WHERE sub_name = $1::name
