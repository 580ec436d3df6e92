-- Which replicated table refers to which by a foreign key: child, parent. Reads only.
SELECT DISTINCT pg_catalog.format('%I.%I', n.nspname, c.relname),
       pg_catalog.format('%I.%I', pn.nspname, p.relname)
  FROM pg_catalog.pg_constraint AS k
  JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class AS p ON p.oid = k.confrelid
  JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace
 WHERE k.contype = 'f'
 ORDER BY 1, 2
