"""The compiled training loop in pure JAX, without disk, processes or Hydra."""
