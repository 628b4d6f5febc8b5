"""`python -m runner.mirror`: brings run folders to a tracker, at any time."""
