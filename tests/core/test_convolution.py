"""A convolution as patches and a matrix product is XLA's, to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from runner.core.convolution import MOST_SLICES, as_patches, has_convolution

# Of the largest value. Both add the same products, in another order.
TOLERANCE = 2e-6
NHWC = ("NHWC", "HWIO", "NHWC")
# shapes of the input and the kernel, and arguments.
CONVOLUTIONS = {
    "same": ((4, 9, 8, 3), (3, 3, 3, 5), {"dimension_numbers": NHWC}),
    "fewer features": ((2, 3, 3, 8), (3, 3, 8, 2), {"dimension_numbers": NHWC}),
    "default dimensions": ((4, 2, 9, 8), (5, 2, 2, 3), {}),
    "dilated": (
        (4, 9, 8, 6),
        (3, 2, 6, 2),
        {
            "window_strides": (2, 1), "padding": [(1, 2), (0, 3)],
            "rhs_dilation": (2, 1), "dimension_numbers": NHWC,
        },
    ),
    "transposed": (
        (2, 5, 4, 6),
        (3, 3, 6, 2),
        {
            "padding": [(2, 1), (1, 2)], "lhs_dilation": (2, 3),
            "dimension_numbers": NHWC,
        },
    ),
    "groups": (
        (4, 9, 8, 6),
        (3, 2, 2, 9),
        {"window_strides": (2, 3), "feature_group_count": 3, "dimension_numbers": NHWC},
    ),
    "each channel alone": (
        (2, 7, 7, 4),
        (3, 3, 1, 4),
        {"feature_group_count": 4, "dimension_numbers": NHWC},
    ),
    "groups of examples": ((6, 4, 5, 5), (9, 4, 3, 3), {"batch_group_count": 3}),
    "1-D, cropped": ((2, 3, 11), (4, 3, 3), {"padding": [(-1, 2)]}),
    "3-D": (
        (2, 5, 4, 4, 2),
        (2, 2, 2, 2, 3),
        {
            "window_strides": (1, 2, 1),
            "dimension_numbers": ("NDHWC", "DHWIO", "NDHWC"),
        },
    ),
}  # fmt: skip


def convolution(name, dtype=jnp.float32):
    x, kernel, arguments = CONVOLUTIONS[name]
    rng = np.random.default_rng(0)
    given = [jnp.asarray(rng.normal(size=shape), dtype) for shape in (x, kernel)]
    arguments = {
        "window_strides": (1,) * (len(x) - 2),
        "padding": "SAME",
        **arguments,
    }

    def with_gradients(*given):
        out, pullback = jax.vjp(
            lambda *given: lax.conv_general_dilated(*given, **arguments), *given
        )
        return out, *pullback(jnp.sin(out))

    return with_gradients, given


def assert_close(found, wanted, tolerance=TOLERANCE):
    found, wanted = jax.tree.leaves(found), jax.tree.leaves(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        one, other = (np.asarray(x, np.float32) for x in (one, other))
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_values_and_gradients_are_those_of_xla(name):
    native, given = convolution(name)
    patches = as_patches(native)
    assert not has_convolution(jax.make_jaxpr(patches)(*given).jaxpr)
    assert_close(jax.jit(patches)(*given), jax.jit(native)(*given))


def test_bfloat16_is_added_up_in_float32():
    native, given = convolution("fewer features", jnp.bfloat16)
    found, wanted = jax.jit(as_patches(native))(*given), jax.jit(native)(*given)
    assert_close(found, wanted, float(jnp.finfo(jnp.bfloat16).eps))


@pytest.mark.smoke
def test_convolutions_are_found_wherever_they_are():
    native, (x, kernel) = convolution("same")
    kernel /= 10  # or rounding would grow from one to the next

    @jax.custom_vjp
    def custom(x, kernel):
        return native(x, kernel)[0].sum()

    custom.defvjp(
        lambda *given: (custom(*given), given), lambda given, g: native(*given)[1:]
    )

    def nested(x, kernel):
        def body(x, _):
            y = jax.checkpoint(native)(x, kernel)[1]
            return lax.cond(y.sum() > 0, lambda: native(y, kernel)[1], lambda: y), None

        x, _ = lax.scan(body, x, length=2)
        x = lax.fori_loop(0, 2, lambda _, x: native(x, kernel)[1], x)
        return jax.jit(custom)(x, kernel), jax.grad(custom)(x, kernel)

    assert not has_convolution(jax.make_jaxpr(as_patches(nested))(x, kernel).jaxpr)
    found, wanted = jax.jit(as_patches(nested))(x, kernel), jax.jit(nested)(x, kernel)
    assert_close(found, wanted, 1e-5)  # of six in a row


def test_what_was_rewritten_can_be_differentiated_and_vmapped():
    native, (x, kernel) = convolution("groups")

    def loss(function):
        return lambda kernel: jnp.sum(function(x, kernel)[0] ** 2)

    kernels = jnp.stack([kernel, 2 * kernel])
    found = jax.vmap(jax.grad(loss(as_patches(native))))(kernels)
    assert_close(found, jax.vmap(jax.grad(loss(native)))(kernels))


def test_a_huge_kernel_is_left_to_xla():
    side = int(MOST_SLICES**0.5) + 1
    x, kernel = jnp.ones((1, 1, 3 * side, 3 * side)), jnp.ones((1, 1, side, side))

    def convolve(x, kernel):
        return lax.conv(x, kernel, (1, 1), "SAME")

    assert has_convolution(jax.make_jaxpr(as_patches(convolve))(x, kernel).jaxpr)
