-- Migration 2: schema changes are refused while a node joins. Runs once, in a transaction.

-- Never replicated. The agent writes the joiner that holds this member's lease, and until when:
-- when the agent dies, the lease and its guard run out together.
CREATE TABLE pgaa.joining (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    joiner text NOT NULL,
    until timestamptz NOT NULL
);

-- Temporary objects, and those of our own and pglogical's schema, are nobody else's business.
-- A refreshed materialized view is no change of structure. SECURITY DEFINER: it runs for whoever
-- changes something, and nobody but the superuser may look into the schema pgaa.
CREATE FUNCTION pgaa.refuse_schema_change() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $function$
DECLARE
    joining pgaa.joining;
    refused boolean;
BEGIN
    SELECT j.* INTO joining FROM pgaa.joining AS j
     WHERE j.until > pg_catalog.clock_timestamp();
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF TG_EVENT = 'sql_drop' THEN
        refused := EXISTS (
            SELECT FROM pg_catalog.pg_event_trigger_dropped_objects() AS o
             WHERE NOT o.is_temporary
               AND coalesce(o.schema_name, '') NOT IN ('pgaa', 'pglogical')
               AND coalesce(o.schema_name, '') !~ '^pg_(temp|toast)');
    ELSE
        refused := EXISTS (
            SELECT FROM pg_catalog.pg_event_trigger_ddl_commands() AS c
             WHERE coalesce(c.schema_name, '') NOT IN ('pgaa', 'pglogical')
               AND coalesce(c.schema_name, '') !~ '^pg_(temp|toast)'
               AND c.command_tag <> 'REFRESH MATERIALIZED VIEW');
    END IF;
    IF refused THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_in_use',
            MESSAGE = pg_catalog.format('%s: node %s is joining the mesh, and the schema can''t '
                                        'change meanwhile', TG_TAG, joining.joiner),
            HINT = 'Try again when it is ready: pgaa-agent status shows how far it has come.';
    END IF;
END
$function$;
CREATE EVENT TRIGGER pgaa_refuse_change ON ddl_command_end
    EXECUTE FUNCTION pgaa.refuse_schema_change();
CREATE EVENT TRIGGER pgaa_refuse_drop ON sql_drop
    EXECUTE FUNCTION pgaa.refuse_schema_change()
