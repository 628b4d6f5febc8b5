"""What crosses devices, read from HLO as XLA writes it here and for accelerators."""

import io

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from helpers.training import SESSION
from runner.job.sharding import (
    Collective,
    collectives,
    crossings,
    placed,
    print_sharding,
)

MODULE = """HloModule jit_f, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {{
  ROOT %sum = f32[] add(%a, %b)
}}

ENTRY %main_spmd (p: f32[8]) -> f32[8] {{
  %p = f32[8]{{0}} parameter(0)
  {line}
}}
"""
ALL = "replica_groups=[1,8]<=[8]"

# A line, and what it is: the kind, the bytes of the whole, the devices of a group.
LINES = [
    (f"%x = f32[4,2]{{1,0}} all-reduce(%p), {ALL}, to_apply=%add", "all-reduce", 32, 8),
    (
        "%x = (f32[3]{0}, /*index=1*/bf16[2,2]{1,0}, f32[]) all-reduce(%p, %q, %r), "
        "replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add",
        "all-reduce", 12 + 8 + 4, 4,
    ),
    (
        "ROOT %x = f32[16]{0:T(128)S(1)} all-reduce-start(%p), replica_groups={}",
        "all-reduce", 64, 8,
    ),
    (
        "%x = (f32[4]{0}, f32[8]{0}) all-reduce-start(%p, %q), replica_groups={}",
        "all-reduce", 48, 8,
    ),
    (
        "%x = f32[64,16]{1,0} all-gather(%p), replica_groups=[4,2]<=[2,4]T(1,0), "
        "dimensions={0}",
        "all-gather", 4096, 2,
    ),
    (
        "%x = (f32[2,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%p), "
        "replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}",
        "all-gather", 256, 8,
    ),
    (
        "%x = ((f32[2]{0}, s8[4]{0}), (f32[8]{0}, s8[16]{0})) all-gather-start(%p, %q)"
        ", replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}",
        "all-gather", 48, 4,
    ),
    (
        "%x = f32[4]{0} reduce-scatter(%p), replica_groups=mesh['a'=8] {'a':(2)4}, "
        "dimensions={0}, to_apply=%add",
        "reduce-scatter", 64, 4,
    ),
    (
        f"%x = ((f32[64]{{0}}), f32[8]{{0}}, s32[]) reduce-scatter-start(%p), {ALL}",
        "reduce-scatter", 256, 8,
    ),
    (
        "%x = (s4[3]{0}, pred[2]{0}) all-to-all(%p, %q), replica_groups={{0,1}}",
        "all-to-all", 4, 2,
    ),
    (
        "%x = (u32[4]{0}, u32[4]{0}, u32[], u32[]) collective-permute-start(%p), "
        "source_target_pairs={{0,1},{1,0}}",
        "collective-permute", 16, 2,
    ),
    ("%x = f64[<=4]{0} collective-permute(%p), source_target_pairs={{0,1}}",
     "collective-permute", 32, 2),
]  # fmt: skip


@pytest.mark.parametrize(("line", "kind", "size", "group"), LINES)
def test_forms_of_an_instruction(line, kind, size, group):
    found = collectives(MODULE.format(line=line), 8)
    assert found == [Collective(kind, size, group, 0, False)]


@pytest.mark.parametrize(
    "line",
    [
        "%x = f32[8]{0} all-reduce-done(%p)",
        "%x = f32[8]{0} all-reduce(%p), replica_groups=[8,1]<=[8], to_apply=%add",
        "%x = f32[8]{0} get-tuple-element(%all-reduce.3), index=0",
        '%x = f32[8]{0} copy(%p), metadata={op_name="jit(f)/all-reduce(p)"}',
    ],
)
def test_what_moves_nothing_is_not_counted(line):
    assert collectives(MODULE.format(line=line), 8) == []


def test_what_it_does_not_know_is_an_error():
    line = "%x = f32[8]{0} all-reduce(%p), replica_groups=new[8], to_apply=%add"
    with pytest.raises(ValueError, match=r"replica_groups in HLO: new\[8\]"):
        collectives(MODULE.format(line=line), 8)
    with pytest.raises(ValueError, match="not an HLO module"):
        collectives("module @jit_f {}", 8)


@given(st.integers(1, 10**9), st.integers(2, 4096))
def test_a_ring_sends_each_part_once_a_round(size, group):
    sent = {k: Collective(k, size, group, 0, False).wire_bytes for k in
            ("all-reduce", "all-gather", "reduce-scatter")}  # fmt: skip
    assert sent["all-gather"] == sent["reduce-scatter"] < size
    assert sent["all-reduce"] == sent["all-gather"] + sent["reduce-scatter"]


def compiled(function, devices, *arguments):
    """`function` of the first argument's share of each device, and of the others."""
    mesh = jax.make_mesh(
        (devices,), ("x",), (AxisType.Auto,), devices=jax.devices()[:devices]
    )
    specs = (P("x"), *[P()] * (len(arguments) - 1))
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=specs, out_specs=P("x"), check_vma=False
    )
    return jax.jit(mapped).lower(*arguments).compile().as_text()


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("all-reduce", lambda x: jax.lax.psum(x, "x")),
        ("all-gather", lambda x: jax.lax.all_gather(x, "x")),
        ("reduce-scatter", lambda x: jax.lax.psum_scatter(x, "x", tiled=True)),
        (
            "all-to-all",
            lambda x: jax.lax.all_to_all(x.reshape(8, 8), "x", 0, 0, tiled=True),
        ),
        ("collective-permute", lambda x: jax.lax.ppermute(x, "x", [(0, 1), (1, 0)])),
    ],
)
def test_what_xla_compiles(kind, function, devices):
    text = compiled(function, devices, jnp.zeros(64 * devices))
    (found,) = collectives(text, devices)
    size = 64 * 4 * (devices if kind == "all-gather" else 1)
    group = 2 if kind == "collective-permute" else devices
    assert found == Collective(kind, size, group, 0, False)


def test_loops_and_branches_are_told_apart():
    def body(i, x):
        x = jax.lax.cond(x[0] > i, lambda: jax.lax.psum(x, "x"), lambda: x)
        return jax.lax.fori_loop(0, i, lambda _, y: jax.lax.pmax(y * y, "x"), x)

    def f(x, turns):
        return jax.lax.fori_loop(0, turns, body, jax.lax.psum(x, "x"))

    found = collectives(compiled(f, 8, jnp.zeros(64), jnp.int32(3)), 8)
    assert sorted((c.loops, c.conditional) for c in found) == [
        (0, False), (1, True), (2, False),
    ]  # fmt: skip


def test_a_data_parallel_step_has_one_fused_all_reduce(built):
    """Of all gradients, and of the means of loss and accuracy with them."""
    run = built("mesh=data", "framework=jax")
    (only,) = crossings(SESSION.program(run.spec, run.values, run.timetable))
    parameters = sum(array.bytes for array in placed(run)["params"])
    assert only[:4] == ("all-reduce", "each step", 1, parameters + 2 * 4)


def test_one_device_moves_nothing(built):
    run = built("framework=jax")
    assert crossings(SESSION.program(run.spec, run.values, run.timetable)) == []


@pytest.mark.smoke
def test_fsdp_gathers_each_parameter_once(built):
    run = built("mesh=fsdp", "framework=jax")
    crossed = {
        (c.kind, c.when): c
        for c in crossings(SESSION.program(run.spec, run.values, run.timetable))
    }
    parameters = placed(run)["params"]
    large = [array for array in parameters if array.spec != "replicated"]
    gathered = crossed["all-gather", "each step"]
    assert gathered.number == len(large) == 3
    assert gathered.bytes == sum(array.bytes for array in large)
    # XLA has no pass for CPUs that makes a reduce-scatter of it.
    summed = crossed["all-reduce", "each step"]
    # Gradients, loss and accuracy; then the split parts of two norms.
    assert summed.number == 2
    assert summed.bytes == sum(a.bytes for a in parameters) + 2 * 4 + 2 * 3 * 4


def test_what_is_printed(built):
    stream = io.StringIO()
    run = built("mesh=fsdp", "framework=jax")
    print_sharding(run, SESSION.program(run.spec, run.values, run.timetable), stream)
    told = stream.getvalue()
    assert "mesh: data 1 x fsdp 8 x model 1, 8 x cpu" in told
    line = next(line for line in told.splitlines() if "dense_0/kernel" in line)
    assert all(s in line for s in ("(64, 128)", "split over -,fsdp", "32,768", "4,096"))
    assert "parameters" in told and "opt state" in told and "all-gather" in told
