"""Mistakes of users, by kind, each with what its one message says."""
