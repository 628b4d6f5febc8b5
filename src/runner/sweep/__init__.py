"""Sweeps: many jobs as few compiled programs, with a ledger of what is done."""
