-- Writes a checkpoint, after which WAL that nobody retains goes.
CHECKPOINT
