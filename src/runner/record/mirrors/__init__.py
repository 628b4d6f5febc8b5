"""Trackers that mirror a run folder."""
