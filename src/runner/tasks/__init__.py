"""Losses and their metrics."""
