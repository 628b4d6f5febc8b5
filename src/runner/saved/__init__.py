"""Runs that have ended: what their folders have recorded, and their models again."""
