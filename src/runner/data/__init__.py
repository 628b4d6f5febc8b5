"""Data sets (TFDS builders, synthetic columns), their order and their batches."""
