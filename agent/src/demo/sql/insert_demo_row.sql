-- Writes one row ($1 the node, $2 the note) and returns its key. Each call writes another row.
INSERT INTO public.demo_rows (node, note) VALUES ($1, $2) RETURNING id
