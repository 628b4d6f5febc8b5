"""The compiled training loop, in pure JAX: it knows no disk, no process and no Hydra."""
