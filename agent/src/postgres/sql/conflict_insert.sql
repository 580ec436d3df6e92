-- conflict_insert
-- Adds conflicts, a JSON array of objects. Times of the log are in the server's own zone.
INSERT INTO pgaa.conflict_history (
    local_conflict_xid, local_conflict_time, object_schema, object_name, object_index, object_key,
    remote_node, remote_node_name, remote_txid, remote_commit_time, remote_commit_lsn,
    conflict_type, conflict_resolution, local_tuple, remote_tuple, local_tuple_xmin,
    local_tuple_origin, local_tuple_origin_name, local_commit_time, concurrent, clock_trusted,
    error_message, error_sqlstate, error_detail)
SELECT c.apply_xid::xid,
       (timestamp '1970-01-01' + c.logged_us * interval '1 microsecond')
           AT TIME ZONE pg_catalog.current_setting('log_timezone'),
       c.schema, c."table", c.index, c.key,
       c.remote_node, c.remote_name, c.remote_xid::xid,
       timestamptz '1970-01-01 00:00:00+00' + c.remote_us * interval '1 microsecond',
       c.remote_lsn,
       c.kind, c.resolution, c.local_tuple, c.remote_tuple, c.local_xid::xid,
       c.local_node, c.local_name,
       timestamptz '1970-01-01 00:00:00+00' + c.local_us * interval '1 microsecond',
       c.concurrent, c.clock_trusted,
       c.message, c.sqlstate, c.detail
  FROM pg_catalog.json_to_recordset($1::text::json) AS c(
       apply_xid text, logged_us int8, schema text, "table" text, index text, key text,
       remote_node uuid, remote_name text, remote_xid text, remote_us int8, remote_lsn pg_lsn,
       kind text, resolution text, local_tuple json, remote_tuple json, local_xid text,
       local_node uuid, local_name text, local_us int8, concurrent boolean, clock_trusted boolean,
       message text, sqlstate text, detail text)
