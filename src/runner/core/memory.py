"""What it means that a device has too little memory."""

import jax


def ran_out(error: BaseException) -> bool:
    """Whether this is how JAX says so."""
    is_jax = isinstance(error, jax.errors.JaxRuntimeError)
    return is_jax and "RESOURCE_EXHAUSTED" in str(error)
