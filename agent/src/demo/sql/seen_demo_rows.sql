-- Which of the rows $1 (an array of keys) are here? Changes nothing.
SELECT id FROM public.demo_rows WHERE id = ANY ($1)
