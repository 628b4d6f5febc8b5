"""Shows the runs that folders hold. Imports no JAX."""
