"""The three pipelines: pure JAX, flax linen and flax nnx behind one seam."""
