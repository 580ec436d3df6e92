-- Allows schema changes again. Idempotent.
DELETE FROM pgaa.joining
