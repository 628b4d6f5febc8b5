"""Losses: what a model's outputs are compared with."""
