-- Migration 3: the row check. Runs once, in a transaction. None of these tables is replicated.

-- Rows that may not be the same on all nodes, until they were seen to be. The digest stands for the
-- key, which may be too long for an index.
CREATE TABLE pgaa.suspects (
    relation text NOT NULL,
    digest uuid NOT NULL,
    key text[] NOT NULL,
    -- Only the beginnings of the key's values are known: the server's log cuts them.
    cut boolean NOT NULL,
    named_by text NOT NULL,
    named_at timestamptz NOT NULL,
    -- When this node itself deleted the row last: what it did to a row decides about it.
    deleted_at timestamptz,
    -- When this node last ordered repairs of it: they may be on their way for a while.
    ordered_at timestamptz,
    PRIMARY KEY (relation, digest)
);

-- What was mended here, with both versions, for people.
CREATE TABLE pgaa.repairs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mended_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    relation text NOT NULL,
    key text[] NOT NULL,
    rule text NOT NULL,
    before jsonb,
    after jsonb,
    -- The version that stays: whose it is, and when it was committed there.
    author uuid,
    committed_at timestamptz
);
CREATE INDEX repairs_by_time ON pgaa.repairs (mended_at);

-- From when on this node knows what it has deleted itself; NULL: from its beginning.
CREATE TABLE pgaa.deletes_known (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    since timestamptz
)
