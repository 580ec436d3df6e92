-- Migration 1: the node's identity and the heartbeat. Runs once, in a transaction.

-- Never replicated. The epoch stands for the contents of this database.
CREATE TABLE pgaa.local (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    node uuid,
    epoch uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid()
);
INSERT INTO pgaa.local DEFAULT VALUES;

-- Replicated, in a replication set of its own: one row a node, written by that node alone.
CREATE TABLE pgaa.heartbeat (
    node uuid PRIMARY KEY,
    epoch uuid NOT NULL,
    number int8 NOT NULL,
    sent_at timestamptz NOT NULL,
    received_at timestamptz
);

-- On a subscriber each arriving row is stamped, so that lag is measured at arrival and not when
-- somebody looks. ENABLE REPLICA: the trigger fires in pglogical's apply and nowhere else.
CREATE FUNCTION pgaa.stamp_arrival() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    NEW.received_at := pg_catalog.clock_timestamp();
    RETURN NEW;
END
$function$;
CREATE TRIGGER stamp_arrival BEFORE INSERT ON pgaa.heartbeat
    FOR EACH ROW EXECUTE FUNCTION pgaa.stamp_arrival();
ALTER TABLE pgaa.heartbeat ENABLE REPLICA TRIGGER stamp_arrival
