import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers.small_models import check_patches
from runner.data.dataset import Feature
from runner.errors import ConfigError
from runner.models.resnet import resnet


def made(shape, depth, width=16, dtype="float32"):
    return resnet(
        inputs=Feature(shape, "float32"), output=(10,), dtype=dtype, depth=depth,
        width=width, norm_momentum=0.9,
    )  # fmt: skip


@pytest.mark.parametrize(
    "depth,millions",
    [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)],
)
def test_it_has_the_published_number_of_parameters(depth, millions):
    """He et al., 2015, table 6; and `depth` layers with weights."""
    params, _ = jax.eval_shape(made((32, 32, 3), depth).init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(params)) / 1e6 == pytest.approx(
        millions, abs=0.03 if depth > 100 else 0.005
    )
    kernels = [x for x in jax.tree.leaves(params) if x.ndim > 1]
    assert len(kernels) == depth


@pytest.mark.parametrize(
    "dtype", [pytest.param("float32", marks=pytest.mark.nightly), "bfloat16"]
)
def test_three_forms_give_the_same_outputs_and_statistics(dtype):
    """Of an image with an odd side, too."""
    model = made((6, 5, 2), 8, 3, dtype)
    params, stats = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (4, 6, 5, 2))
    for train in (False, True):
        ours, after = model.jax(params, stats, x, None, train)
        variables = {"params": params, "batch_stats": stats}
        linen, changed = model.linen().apply(
            variables, x, train=train, mutable=["batch_stats"]
        )
        module = model.nnx(nnx.Rngs(0))
        nnx.update(module, params)
        nnx.update(module, stats)
        module.train() if train else module.eval()
        theirs = module(x)
        assert ours.dtype == linen.dtype == theirs.dtype == dtype
        np.testing.assert_array_equal(ours, linen)
        np.testing.assert_array_equal(ours, theirs)
        own = nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
        for other in (changed["batch_stats"], own):
            jax.tree.map(np.testing.assert_array_equal, after, other)


def test_a_block_that_adds_nothing_keeps_pixels_and_channels():
    model = made((4, 4, 1), 8, 2)
    params, stats = model.init(jax.random.key(0))
    for i in range(3):  # the last norm of each block gives 0
        params[f"block_{i}"]["norm_1"]["scale"] = jnp.zeros(2 * 2**i)
    x = jax.random.uniform(jax.random.key(1), (3, 4, 4, 1))
    centre = jnp.zeros((3, 3, 1, 2)).at[1, 1].set(jnp.float32([1, 2]))
    params["conv"]["kernel"] = centre
    params["output"]["kernel"] = jnp.eye(8, 10)
    outputs, _ = jax.jit(model.jax, static_argnums=4)(params, stats, x, None, False)
    kept = x[:, 0, 0]  # every second pixel, twice
    expected = jnp.concatenate([kept, 2 * kept, jnp.zeros((3, 8))], axis=1)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4)


@pytest.mark.nightly
def test_its_convolutions_may_be_patches(trained, built):
    asked = (
        "model=resnet", "model.depth=8", "model.width=2", "train.steps=3",
        "train.epochs=null", "framework=jax",
    )  # fmt: skip
    check_patches(asked, trained, built)


@pytest.mark.parametrize(
    "overrides,message",
    [
        (["model.depth=21"], r"model\.depth=21 must be 6 n \+ 2 .* as 20 or 26"),
        (["model.depth=2"], r"model\.depth=2 must be .* as 8 or 14"),
        (["model.depth=-4"], r"model\.depth=-4 must be .* as 8 or 14"),
        (["model.width=0"], r"model\.width=0 must be at least 1"),
        (["data=linear_ae", "task=reconstruction"], "model=resnet needs images"),
    ],
)
def test_impossible_sizes_are_refused(overrides, message, built):
    with pytest.raises(ConfigError, match=message):
        built("model=resnet", *overrides)
