-- From when on this node knows its own deletes, in microseconds; no row before there was a slot.
SELECT (extract(epoch FROM d.since) * 1000000)::int8 FROM pgaa.deletes_known AS d
