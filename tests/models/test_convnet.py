import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers.small_models import (
    check_patches,
    conv,
    convnet,
    dense,
    pool,
    small_convnet,
)
from helpers.training import SESSION
from runner.data.dataset import Feature
from runner.errors import ConfigError
from runner.models.model import Model


@pytest.fixture
def made(composed):
    """A model for images of one shape, as its YAML and overrides say."""

    def made(shape, *overrides, dtype="float32") -> Model:
        given = {"inputs": Feature(shape, "float32"), "output": (10,), "dtype": dtype}
        return SESSION.made(composed(*overrides), "model", **given)

    return made


@pytest.mark.parametrize(
    "name,shape,count",
    [("2c2d", (28, 28, 1), 3_274_634), ("3c3d", (32, 32, 3), 895_210)],
)
def test_deepobs_models_have_their_sizes_and_initial_values(name, shape, count, made):
    params, _ = made(shape, f"model={name}").init(jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(params)) == count
    biases = {
        float(b) for p in params.values() for b in (p["bias"].min(), p["bias"].max())
    }
    kernels = {k: np.asarray(p["kernel"]) for k, p in params.items()}
    if name == "2c2d":
        assert biases == {np.float32(0.05)}
        for kernel in kernels.values():  # a normal of 0.05, cut at two of them
            assert np.std(kernel) == pytest.approx(0.88 * 0.05, rel=0.05)
            assert 0.09 < np.abs(kernel).max() <= 0.1
        return
    assert biases == {0}
    for layer, kernel in kernels.items():
        fans = np.prod(kernel.shape[:-2]) * sum(kernel.shape[-2:])
        assert np.std(kernel) == pytest.approx((2 / fans) ** 0.5, rel=0.05)
        cut = 2 / 0.8796 if "conv" in layer else 3**0.5  # normal or uniform
        assert np.abs(kernel).max() <= cut * (2 / fans) ** 0.5 * 1.001
    # The published loss of epoch 0 (3.59) is ln 10 and half of 0.002 times this.
    decay = 0.001 * sum(np.square(kernel).sum() for kernel in kernels.values())
    assert decay == pytest.approx(3.59 - np.log(10), abs=0.05)


@pytest.mark.parametrize("kind", ["max", "mean"])
@pytest.mark.parametrize("size,stride,padding", [(3, 2, "SAME"), (2, 1, "VALID")])
def test_pools_are_over_what_lies_in_the_image(kind, size, stride, padding, made):
    # Like those of images of 7 x 6 pixels, with a dense layer that changes nothing.
    model = made((7, 6, 1), "model=convnet", convnet(pool(kind, size, stride, padding)))
    params, _ = model.init(jax.random.key(0))
    inputs = params["output"]["kernel"].shape[0]
    kernel, x = (
        np.eye(inputs, 10, dtype="f"),
        np.random.default_rng(0).normal(size=(2, 7, 6, 1)),
    )
    params = {"output": {"kernel": kernel, "bias": np.zeros(10, "f")}}
    outputs, _ = model.jax(params, {}, jnp.float32(x), None, False)
    reduce = np.max if kind == "max" else np.mean
    expected = []
    lows = [0, 0]
    counts = [(side - size) // stride + 1 for side in (7, 6)]
    if padding == "SAME":  # as TensorFlow: what is odd is after the image
        counts = [-(-side // stride) for side in (7, 6)]
        lows = [
            max((n - 1) * stride + size - side, 0) // 2
            for n, side in zip(counts, (7, 6), strict=True)
        ]
    for row in range(counts[0]):
        for column in range(counts[1]):
            top, left = row * stride - lows[0], column * stride - lows[1]
            window = x[:, max(top, 0) : top + size, max(left, 0) : left + size]
            expected.append(reduce(window, axis=(1, 2, 3)))
    assert len(expected) == inputs
    np.testing.assert_allclose(outputs, np.transpose(expected)[:, :10], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_three_forms_give_the_same_outputs(dtype, made):
    model = made((8, 7, 2), "model=convnet", small_convnet(), dtype=dtype)
    params, _ = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (3, 8, 7, 2))
    ours, _ = model.jax(params, {}, x, None, False)
    linen = model.linen().apply({"params": params}, x, train=False)
    module = model.nnx(nnx.Rngs(0))
    nnx.update(module, params)
    assert ours.dtype == linen.dtype == module(x).dtype == dtype
    np.testing.assert_array_equal(ours, linen)
    np.testing.assert_array_equal(ours, module(x))


def test_its_convolutions_may_be_patches(trained, built):
    asked = ("model=convnet", small_convnet(), "train.steps=5", "train.epochs=null")
    check_patches(asked, trained, built)


@pytest.mark.parametrize(
    "layers,message",
    [
        ([conv(0, 3)], r"model\.layers\[0\]\.features=0 must be at least 1"),
        ([conv(2, 3), conv(2, 0)], r"model\.layers\[1\]\.kernel_size=0 must be at"),
        ([pool("max", 2, 0)], r"model\.layers\[0\]\.stride=0 must be at least 1"),
        ([dense(-1)], r"model\.layers\[0\]\.features=-1 must be at least 1"),
        ([dense(3), conv(2, 3)], r"model\.layers\[1\].*can't follow a Dense"),
        ([pool("max", 2, 2), conv(2, 5, 1, "VALID")],
         r"layers\[1\]\.kernel_size=5 must be at most the 4 x 4 pixels"),
        ([pool("mean", 9, 1, "VALID")], r"layers\[0\]\.size=9 must be at most the 8 x"),
        ([pool("med", 2, 2)], r"layers\[0\]\.kind=med must be max or mean"),
        ([conv(2, 3, 1, "same")], r"layers\[0\]\.padding=same must be SAME or VALID"),
        ([conv(2, 3).replace("stride", "strides")], r"strides.*Did you mean 'stride'"),
        ([conv(2, 3).replace(",stride:1", "")], r"layers\[0\]\.stride must be given"),
        (["3"], r"model\.layers\[0\]=3 must be a Conv, a Pool or a Dense"),
    ],
)  # fmt: skip
def test_impossible_layers_are_refused(layers, message, built):
    with pytest.raises(ConfigError, match=message):
        built("model=convnet", convnet(*layers))


@pytest.mark.parametrize(
    "overrides,message",
    [
        (["data=linear_ae", "task=reconstruction"], "model=convnet needs images"),
        (["model.conv_init._target_=fractions.Fraction"], r"conv_init must be an init"),
        (["model.layers=3"], r"model\.layers=3 must be a list"),
    ],
)
def test_other_mistakes_are_told(overrides, message, built):
    with pytest.raises(ConfigError, match=message):
        built("model=convnet", *overrides)
