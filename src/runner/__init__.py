"""Hydra-configured experiment runner for JAX."""
