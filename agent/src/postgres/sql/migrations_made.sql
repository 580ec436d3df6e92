-- The migrations that were made. Reads only.
SELECT m.number FROM pgaa.migration AS m ORDER BY m.number
