-- Migration 4: what the log says of conflicts. Runs once, in a transaction. Never replicated.

-- The columns have the names of pgactive_conflict_history where they mean the same. The table tells
-- only of changes that came to this node; every node has one of its own.
CREATE TABLE pgaa.conflict_history (
    conflict_id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    local_conflict_xid xid,
    local_conflict_time timestamptz NOT NULL,
    object_schema text,
    object_name text,
    object_index text,
    object_key text,
    remote_node uuid,
    remote_node_name text,
    remote_txid xid,
    remote_commit_time timestamptz,
    remote_commit_lsn pg_lsn,
    conflict_type text NOT NULL,
    conflict_resolution text NOT NULL,
    local_tuple json,
    remote_tuple json,
    local_tuple_xmin xid,
    local_tuple_origin uuid,
    local_tuple_origin_name text,
    local_commit_time timestamptz,
    concurrent boolean,
    clock_trusted boolean NOT NULL DEFAULT true,
    error_message text,
    error_sqlstate text,
    error_detail text
);
CREATE INDEX ON pgaa.conflict_history (local_conflict_time);

COMMENT ON TABLE pgaa.conflict_history IS 'Conflicts that this node met while it applied changes of others. Ordinary updates of a row that another node had written last are no conflicts: pgaa.conflict_tally counts them';
COMMENT ON COLUMN pgaa.conflict_history.local_conflict_xid IS 'Transaction here in which it was met';
COMMENT ON COLUMN pgaa.conflict_history.local_conflict_time IS 'When it was met';
COMMENT ON COLUMN pgaa.conflict_history.object_schema IS 'Schema of the table';
COMMENT ON COLUMN pgaa.conflict_history.object_name IS 'The table';
COMMENT ON COLUMN pgaa.conflict_history.object_index IS 'The index by which the row was found, or was not';
COMMENT ON COLUMN pgaa.conflict_history.object_key IS 'The row''s primary key; values over 40 bytes are cut and end in ...; NULL where the log can''t be read in one way only';
COMMENT ON COLUMN pgaa.conflict_history.remote_node IS 'Where the transaction was committed that was being applied; remote_node_name is its name then';
COMMENT ON COLUMN pgaa.conflict_history.remote_txid IS 'Its number there';
COMMENT ON COLUMN pgaa.conflict_history.remote_commit_time IS 'When it was committed there, by that node''s clock';
COMMENT ON COLUMN pgaa.conflict_history.remote_commit_lsn IS 'Where its commit is in that node''s WAL';
COMMENT ON COLUMN pgaa.conflict_history.conflict_type IS 'insert_insert, update_update, update_missing, delete_missing; apply_error: the worker gave up, and tries again';
COMMENT ON COLUMN pgaa.conflict_history.conflict_resolution IS 'apply_remote, keep_local, skip; none';
COMMENT ON COLUMN pgaa.conflict_history.local_tuple IS 'The row that was here, each value as text; the log''s own text where it can''t be read in one way only';
COMMENT ON COLUMN pgaa.conflict_history.remote_tuple IS 'The row that came; of a delete only its key';
COMMENT ON COLUMN pgaa.conflict_history.local_tuple_xmin IS 'Transaction here that had written the local row';
COMMENT ON COLUMN pgaa.conflict_history.local_tuple_origin IS 'The node that had committed the local row; local_tuple_origin_name is its name then';
COMMENT ON COLUMN pgaa.conflict_history.local_commit_time IS 'When the local row was committed, by the clock of that node';
COMMENT ON COLUMN pgaa.conflict_history.concurrent IS 'Did neither node know of the other''s change? NULL: nobody can tell any more';
COMMENT ON COLUMN pgaa.conflict_history.clock_trusted IS 'False: it was decided by the time of two commits, while the clocks of their nodes were too far apart';

-- Every line about a conflict, counted. A node that isn't known any more is all zeros.
CREATE TABLE pgaa.conflict_tally (
    since timestamptz,
    object_schema text,
    object_name text,
    remote_node uuid,
    local_tuple_origin uuid,
    conflict_type text,
    conflict_resolution text,
    lines int8 NOT NULL,
    conflicts int8 NOT NULL,
    unsure int8 NOT NULL,
    PRIMARY KEY (since, object_schema, object_name, remote_node, local_tuple_origin,
                 conflict_type, conflict_resolution)
);
COMMENT ON TABLE pgaa.conflict_tally IS 'Lines about conflicts, in periods of ten minutes: all lines; those that are conflicts; those of which nobody can tell';

-- How far each file of the log was read: moved in the transaction that writes what was read.
CREATE TABLE pgaa.log_position (
    name text,
    inode int8,
    read_to int8 NOT NULL,
    ended boolean NOT NULL,
    PRIMARY KEY (name, inode)
);

-- Has the log ever been read, and what of it can't be read any more?
CREATE TABLE pgaa.log_reader (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    begun boolean NOT NULL DEFAULT false,
    gap text,
    gap_at timestamptz
);
INSERT INTO pgaa.log_reader DEFAULT VALUES;

-- Whose changes come under which number of an origin. Numbers are never given to another node, and
-- a node that has gone leaves rows behind.
CREATE TABLE pgaa.origin_node (
    number int8 PRIMARY KEY,
    node uuid NOT NULL
)
