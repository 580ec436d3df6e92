-- Check of migration 3: raises when its outcome is wrong. Reads only.
DO $check$
BEGIN
    PERFORM s.relation, s.digest, s.key, s.cut, s.named_by, s.named_at, s.deleted_at,
            s.ordered_at
       FROM pgaa.suspects AS s WHERE false;
    PERFORM r.relation, r.key, r.rule, r.before, r.after, r.author, r.committed_at
       FROM pgaa.repairs AS r WHERE false;
    PERFORM d.since FROM pgaa.deletes_known AS d WHERE false;
END
$check$
