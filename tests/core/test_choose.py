"""How steps and members are run: rules on what is in a step."""

import jax
import jax.numpy as jnp
import pytest

from runner.core.choose import (
    CALL_SECONDS,
    CPU,
    FORMS,
    MOST_MEMBERS,
    MOST_STEPS,
    best,
    by_table,
    flops,
    sizes,
    steps_per_call,
)
from runner.core.measured import MEASURED
from runner.core.shapes import step_jaxpr


def test_convolutions_do_not_loop_on_cpu():
    def convolve(x):
        return jax.lax.conv(x, x, (1, 1), "SAME")

    image = jnp.ones((1, 1, 4, 4))
    nested = jax.make_jaxpr(jax.jit(lambda x: jax.grad(lambda y: convolve(y).sum())(x)))
    assert steps_per_call(nested(image).jaxpr, "cpu", 1) == 1
    assert steps_per_call(nested(image).jaxpr, "gpu", 1) > 1


def test_a_call_has_more_steps_the_smaller_they_are():
    def steps(size, members=1, backend="cpu"):
        product = jax.make_jaxpr(lambda x: x @ x)(jnp.ones((size, size)))
        return steps_per_call(product.jaxpr, backend, members)

    assert steps(2) == MOST_STEPS and steps(8000) == 1
    some = CALL_SECONDS / (2 * 1000**3 / CPU.flops)
    assert steps(1000) == pytest.approx(some, abs=1)
    assert steps(1000, members=2) == pytest.approx(some / 2, abs=1)
    assert steps(1000, backend="gpu") > steps(1000)

    def repeated(x):
        return jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, length=10**6)

    assert steps_per_call(jax.make_jaxpr(repeated)(0.0).jaxpr, "cpu", 1) == 1


def test_flops():
    x, w = jnp.ones((2, 3)), jnp.ones((3, 4))
    once = 2 * 2 * 3 * 4
    assert flops(jax.make_jaxpr(jnp.dot)(x, w).jaxpr) == once
    assert flops(jax.make_jaxpr(jax.jit(jnp.dot))(x, w).jaxpr) == once
    batched = jax.make_jaxpr(jax.vmap(jnp.dot))(x[None], w[None]).jaxpr
    assert flops(batched) == once

    def repeated(x):
        return jax.lax.scan(lambda c, _: (c, x @ w), 0, length=5)

    assert flops(jax.make_jaxpr(repeated)(x).jaxpr) == 5 * once

    def convolve(x, w):
        return jax.lax.conv(x, w, (1, 1), "SAME")

    images, kernels = jnp.ones((2, 3, 8, 8)), jnp.ones((4, 3, 5, 5))
    each = 2 * 3 * 5 * 5
    found = flops(jax.make_jaxpr(convolve)(images, kernels).jaxpr)
    assert found == 2 * 4 * 8 * 8 * each


@pytest.mark.parametrize(
    ("model", "convolves"),
    [
        (("model=mlp", "model.hidden_sizes=[16]"), False),
        (("model=mlp", "model.hidden_sizes=[1024,1024]"), False),
        (("model=cnn", "train.convolution=native"), True),
    ],
)
def test_a_platform_that_was_never_measured(model, convolves, built):
    run = built(*model, "framework=jax")
    jaxpr = step_jaxpr(run.spec, run.values)
    here = by_table(jaxpr, "cpu", "cpu", FORMS, 32)
    assert by_table(jaxpr, "cpu", "of another kind", FORMS, 32) == here
    assert here.microseconds and (len(here.microseconds) == 2) == convolves
    there = by_table(jaxpr, "gpu", "never measured", FORMS, 10**6)
    assert there.convolution == "native"
    assert there.members == (1 if convolves else MOST_MEMBERS)
    patches = by_table(jaxpr, "gpu", "never measured", ["patches"], 1000)
    assert patches.members == MOST_MEMBERS


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: f"{row.kind} {row.program}")
@pytest.mark.parametrize("count", [1, 2, 8, 20, 32])
def test_a_choice_takes_at_most_10_percent_more_than_the_best(row, count):
    """So it does compared with members in turn, which are always measured."""
    forms = tuple(row.microseconds)
    choice = best(row.microseconds, forms, count, "table")
    ways = [sizes(times, count) for times in row.microseconds.values()]
    taken = ways[forms.index(choice.convolution)][choice.members]
    assert all(1 in times for times in ways)
    assert taken <= 1.1 * min(min(times.values()) for times in ways)


def test_the_largest_population_among_the_fastest_and_the_first_form():
    times = {"native": {1: 10.0, 8: 9.8}, "patches": {1: 9.9, 8: 12.0}}
    assert best(times, FORMS, 8, "table")[:2] == ("native", 8)
    assert best(times, FORMS, 1, "table")[:2] == ("native", 1)
    assert best(times, ["patches"], 8, "table")[:2] == ("patches", 1)
    assert best({"patches": {1: 9.9}}, FORMS, 8, "measurement")[:2] == ("patches", 1)
    assert best({"native": {1: 9.9}}, FORMS, 8, "measurement")[:2] == ("native", 1)
    assert best({}, FORMS, 8, "measurement") == ("native", 1, "measurement", {})
    times["patches"][1] = 9.0
    assert best(times, FORMS, 8, "table")[:2] == ("patches", 1)
    # Two take a third of the way from one to eight.
    assert sizes(times["patches"], 2) == {1: 9.0, 2: pytest.approx(10.0)}
    assert sizes(times["patches"], 100) == times["patches"]
