"""Tasks, which say what outputs mean, and metrics."""
