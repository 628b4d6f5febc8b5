"""The state of a run in its folder comes back as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from runner.record.files import STATE
from runner.record.state import arrays_in, restored, save_state


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_numbers_flags_and_keys_come_back(tmp_path, impl):
    state = {
        "params": {"kernel": np.ones((2, 3), np.float32).T, "scale": jnp.float32(2)},
        "model_state": {
            "count": jnp.int32(3),
            "is_ready": jnp.array(True),
            "noise": jax.random.key(4, impl=impl),
            "streams": jax.random.split(jax.random.key(5, impl=impl), 3),
        },
    }
    digest = save_state(tmp_path, jax.device_get(state))
    path = tmp_path / STATE
    arrays = arrays_in(path, path.read_bytes(), own=digest)
    found = restored(jax.eval_shape(lambda: state), arrays)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b), *map(words, (found, state))
    )


def words(state):
    """`state` with each key as its words."""
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state)
