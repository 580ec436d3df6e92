-- The newest heartbeat of each node that has arrived; milliseconds. Reads only.
SELECT h.node,
       h.epoch,
       h.number,
       (extract(epoch FROM h.sent_at) * 1000)::int8,
       (extract(epoch FROM coalesce(h.received_at, h.sent_at) - h.sent_at) * 1000)::int8
  FROM pgaa.heartbeat AS h
