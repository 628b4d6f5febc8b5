"""How steps and members are run: rules on what is in a step."""

import jax
import jax.numpy as jnp
import pytest

from runner.core.choose import dot_flops, loops, vmaps
from runner.core.program import step_jaxpr


def test_convolutions_do_not_loop_on_cpu():
    def convolve(x):
        return jax.lax.conv(x, x, (1, 1), "SAME")

    image = jnp.ones((1, 1, 4, 4))
    nested = jax.make_jaxpr(jax.jit(lambda x: jax.grad(lambda y: convolve(y).sum())(x)))
    assert not loops(nested(image).jaxpr, "cpu")
    assert loops(nested(image).jaxpr, "gpu")
    assert loops(jax.make_jaxpr(lambda x: x @ x)(jnp.ones((2, 2))).jaxpr, "cpu")


def test_dot_flops():
    x, w = jnp.ones((2, 3)), jnp.ones((3, 4))
    once = 2 * 2 * 3 * 4
    assert dot_flops(jax.make_jaxpr(jnp.dot)(x, w).jaxpr) == once
    assert dot_flops(jax.make_jaxpr(jax.jit(jnp.dot))(x, w).jaxpr) == once
    batched = jax.make_jaxpr(jax.vmap(jnp.dot))(x[None], w[None]).jaxpr
    assert dot_flops(batched) == once

    def repeated(x):
        return jax.lax.scan(lambda c, _: (c, x @ w), 0, length=5)

    assert dot_flops(jax.make_jaxpr(repeated)(x).jaxpr) == 5 * once


@pytest.mark.parametrize(
    ("model", "on_cpu"),
    [
        (("model=mlp", "model.hidden_sizes=[16]"), True),
        (("model=mlp",), True),
        (("model=mlp", "model.hidden_sizes=[1024,1024]"), False),
        (("model=cnn",), False),
    ],
)
def test_members_side_by_side_are_small_on_cpu(model, on_cpu, built):
    run = built(*model, "framework=jax")
    jaxpr = step_jaxpr(run.spec, run.values)
    assert vmaps(jaxpr, "cpu") == on_cpu
    assert vmaps(jaxpr, "gpu")
