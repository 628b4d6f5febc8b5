"""Model architectures, each in pure JAX, flax linen and flax nnx side by side."""
