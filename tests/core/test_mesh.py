"""Meshes: the same losses on each, and a state split by one rule."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from helpers.shipped import SMALL, each_of
from helpers.training import SESSION
from runner.core.mesh import device_mesh
from runner.core.placement import largest
from runner.core.shapes import start_shapes
from runner.core.step import init as init_step
from runner.core.step import train_step
from runner.errors import ConfigError
from runner.frameworks.sharded import sharded
from runner.job.sharding import placed
from runner.settings import MeshSettings

TOLERANCE = 1e-5  # relative
# Their states have other shapes than the parameters, or are computed of whole matrices;
# other kinds meet a mesh below, and a population in test_population.py.
SHAPED = ("adafactor", "sm3", "galore", "muon")
OWN = {"galore": ["optimizer.rank=4"]}  # below that of the gradients: see its YAML


@given(st.lists(st.integers(0, 70), max_size=4), st.integers(1, 8), st.integers(1, 99))
def test_the_rule(sizes, fsdp, least):
    spec = largest(tuple(sizes), fsdp, least)
    whole = spec == PartitionSpec()
    can_be = any(size % fsdp == 0 for size in sizes)
    assert whole == (fsdp == 1 or math.prod(sizes) < least or not can_be)
    if not whole:
        assert spec[-1] == "fsdp" and not any(spec[:-1])
        chosen = len(spec) - 1
        others = [size for size in sizes if size % fsdp == 0]
        assert sizes[chosen] == max(others)
        assert sizes.index(sizes[chosen]) == chosen  # the first of equals


def test_a_single_device_of_several_processes_is_named(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"^mesh\.data=1 takes 1 of the"):
        device_mesh(MeshSettings(1, 1, 1, 1, []), 32, 1)


def losses(run, mesh, steps=6):
    """Of the first steps on `mesh`, straight from the step; the program is elsewhere.

    With XLA's optimizations off, which take longer than all the steps.
    """
    spec, values = run.spec, run.values
    pipeline = sharded(spec.pipeline, mesh)
    init = init_step(pipeline, False, spec.optimizer)
    rates, hyperparameters = run.learning_rates, values.hyperparameters
    places = mesh.state(jax.eval_shape(init, run.init_key, rates[0], hyperparameters))
    carry = jax.jit(init, out_shardings=places)(run.init_key, rates[0], hyperparameters)
    step = jax.jit(
        train_step(pipeline, spec.task, spec.dataset.transforms, 1),
        out_shardings=(places, mesh.own),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    examples = NamedSharding(mesh.own.mesh, PartitionSpec(("data", "fsdp")))
    shared, found = (jnp.float32(jnp.inf), values), []
    for i in range(steps):
        batch = spec.dataset.train.rows(run.order.indices_at(i))
        batch = jax.device_put(batch, examples)
        carry, row = step(carry, batch, jnp.int32(i), jnp.float32(rates[i]), *shared)
        found.append(row["train/loss"])
    return np.array(found)


@pytest.mark.parametrize("name", each_of(SHAPED))
def test_every_optimizer_on_two_axes(name, composed, assembled):
    """benchmarks/meshes.py has the other meshes."""
    run = assembled(f"optimizer={name}", *OWN.get(name, []), *SMALL)
    cfg = composed("mesh=data_fsdp", "mesh.min_shard_elements=64").mesh
    two = losses(run, device_mesh(cfg, run.spec.dataset.batch_size, 1))
    np.testing.assert_allclose(two, losses(run, run.spec.mesh), rtol=TOLERANCE)


CNN = ("model=cnn", "model.channels=[8,16]", "model.hidden_size=32")


@pytest.mark.parametrize(
    ("meshes", "overrides"),
    [
        (("data_fsdp",), CNN),
        pytest.param(("data", "fsdp"), CNN, marks=pytest.mark.nightly),
        pytest.param(
            ("data", "fsdp"),
            ("optimizer=adamw", "train.ema_decay=0.9"),
            marks=pytest.mark.nightly,
        ),
        (
            ("tensor",),
            ("framework=jax", "optimizer=adamw", "train.ema_decay=0.9",
             "train.gradient_accumulation=2",
             "mesh.rules=[[dense_0/kernel,[null,model]],[dense_1/kernel,[model,null]]]"),
        ),
        (
            ("fsdp",),
            ("framework=linen", "optimizer=sam", "train.gradient_accumulation=2",
             "train.clip_global_norm=0.1", "data.mode=memory"),
        ),
    ],
)  # fmt: skip
def test_losses_are_those_of_one_device(meshes, overrides, trained):
    """BatchNorm's statistics among what they depend on."""
    asked = (
        *overrides, "train.epochs=null", "train.steps=8", "train.eval_every_steps=4",
        "train.log_every_steps=1",
    )  # fmt: skip
    one = trained(*asked, "mesh=single")
    for mesh in meshes:
        for row, wanted in zip(trained(*asked, f"mesh={mesh}"), one, strict=True):
            assert row == pytest.approx(wanted, rel=TOLERANCE)


@pytest.fixture(scope="module")
def wide():
    """Overrides of a model whose arrays are mostly large enough to be split."""
    return "model.hidden_sizes=[256,256]", "train.ema_decay=0.9", "mesh=fsdp"


@pytest.mark.smoke
def test_each_of_8_devices_has_an_8th_of_the_state(built, wide):
    run = built(*wide)
    compiled = SESSION.program(run.spec, run.values, run.timetable)
    values = run.values.hyperparameters
    carry = compiled.init.result()(run.init_key, run.learning_rates[0], values)
    for part in (carry.state.params, carry.state.opt_state, carry.average):
        leaves = jax.tree.leaves(part)
        whole = sum(leaf.nbytes for leaf in leaves)
        on_device = {device: 0 for device in jax.devices()}
        for leaf in leaves:
            for shard in leaf.addressable_shards:
                on_device[shard.device] += shard.data.nbytes
        assert max(on_device.values()) <= (1 / 8 + 0.02) * whole
    told = [array.device_bytes for arrays in placed(run).values() for array in arrays]
    shards = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(carry)]
    assert told == [shard.nbytes for shard in shards]


def test_initial_values_are_made_where_they_stay(built, wide):
    """No device makes a whole parameter first: XLA's buffers for it are too small."""
    run = built(*wide)
    memory = (
        SESSION.program(run.spec, run.values, run.timetable)
        .init.result()
        .memory_analysis()
    )
    largest = 256 * 256 * 4
    assert memory.temp_size_in_bytes < largest < 2 * 8 * memory.output_size_in_bytes


def test_rules_place_parameters_and_their_moments(built):
    rule = "mesh.rules=[['dense_0/kernel',[null,fsdp]]]"
    run = built("mesh=fsdp", rule, "optimizer=adam", "model.hidden_sizes=[16]")
    state = start_shapes(run.spec, run.values).carry.state
    kernel = state.params["dense_0"]["kernel"]
    assert kernel.shape == (64, 16) and kernel.sharding.spec == PartitionSpec(
        None, "fsdp"
    )
    moments = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(state.opt_state)
        if "dense_0" in str(path) and "kernel" in str(path)
    ]
    assert len(moments) == 2
    assert {leaf.sharding.spec for leaf in moments} == {kernel.sharding.spec}
    assert state.params["output"]["bias"].sharding.spec == PartitionSpec()


@pytest.mark.parametrize(
    "rule,said",
    [
        ("['kernal',[null,fsdp]]", "'kernal' with the axes .* fits none of"),
        ("['kernel',[fsdp]]", "fits none of the parameters"),
        ("['kernel',[null,modle]]", "null or data, fsdp, model for each"),
        ("['kernel',[fsdp,fsdp]]", "none of them twice"),
        ("['kernel',fsdp]", "null or data, fsdp, model for each"),
        ("['kernel',[null,model]]", "splits nothing, since mesh.model=1"),
        ("['output/kernel',[null,fsdp]]", r"output/kernel \[64, 10\] on .* fsdp 8"),
        ("['(',[fsdp]]", "must be a regular expression"),
    ],
)
def test_a_rule_that_places_nothing_is_refused(rule, said, built):
    with pytest.raises(ConfigError, match=said):
        built("mesh=fsdp", f"mesh.rules=[{rule}]")


def test_a_misspelled_rule_is_refused_on_one_device_too(built):
    """There it would place nothing in any case, and be found on a cluster."""
    own = "model.hidden_sizes=[24]"  # runs share programs, whatever rules place there
    built("mesh=single", "mesh.rules=[['dense_0/kernel',[null,fsdp]]]")
    with pytest.raises(ConfigError, match=r"dense_0/kernl' .* fits none of"):
        built("mesh=single", own, "mesh.rules=[['dense_0/kernl',[null,fsdp]]]")
