"""Losses: how a model's outputs are judged."""
