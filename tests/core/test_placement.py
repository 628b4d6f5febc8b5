"""Where a model's own names of axes, and rules before them, place its parameters."""

import io

import jax
import pytest
from jax.sharding import PartitionSpec as P

from helpers.at_night import each_in_one, one_in
from helpers.training import SESSION
from runner.core.placement import Axes, Placement
from runner.core.shapes import start_shapes
from runner.errors import ConfigError
from runner.job.sharding import crossings, print_sharding

TOLERANCE = 1e-5  # relative
NAMED = P(None, "model"), P("model", None)  # as tests/helpers/partitioned.py does
NAMING = ["linen", "nnx"]  # the frameworks whose models name axes
MODEL = "model._target_=helpers.partitioned.partitioned"
SHORT = (
    "train.epochs=null", "train.steps=8", "train.eval_every_steps=4",
    "train.log_every_steps=1", "optimizer=adam",
)  # fmt: skip


def specs(run):
    """Of the hidden and the output kernel, and whether Adam's moments have the same."""
    state = start_shapes(run.spec, run.values).carry.state
    found = [state.params[name]["kernel"].sharding.spec for name in
             ("hidden", "output")]  # fmt: skip
    moments = state.opt_state[0][0]
    for tree in (moments.mu, moments.nu):
        same = jax.tree.map(lambda a, b: a.sharding == b.sharding, tree, state.params)
        assert jax.tree.all(same)
    assert state.params["output"]["bias"].sharding.spec == P()
    return tuple(found)


@pytest.mark.parametrize("framework", one_in(2, ["nnx", "linen"]))
def test_a_model_is_placed_by_its_own_names_and_trains_alike(
    framework, composed, built, trained
):
    asked = (f"framework={framework}", MODEL, *SHORT)
    run = built(*asked, "mesh=tensor")
    assert run.spec.mesh.own.mesh.shape == {"data": 4, "fsdp": 1, "model": 2}
    assert run.spec.mesh.batches.spec == P(None, ("data", "fsdp"))
    assert specs(run) == NAMED
    # Tensor parallelism: no device gets a whole kernel.
    crossed = crossings(SESSION.program(run.spec, run.values, run.timetable))
    sizes = [c.bytes for c in crossed if c.kind == "all-gather"]
    assert sum(sizes) < 16 * 10 * 4
    carry = SESSION.program(run.spec, run.values, run.timetable).init.result()(
        run.init_key, run.learning_rates[0], run.values.hyperparameters
    )
    kernel = carry.state.params["hidden"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (64, 8)
    one = trained(*asked, "mesh=single")
    for mesh in (
        ["mesh=tensor"],
        ["mesh=data_fsdp", "mesh.model=2", "mesh.min_shard_elements=8"],
    ):
        for row, wanted in zip(trained(*asked, *mesh), one, strict=True):
            assert row == pytest.approx(wanted, rel=TOLERANCE)


RULE = "mesh.rules=[[hidden/kernel,[%s]]]"


PLACED = [
    # A rule comes first, and nulls keep an array whole.
    ((RULE % "model,null",), (P("model", None), NAMED[1])),
    ((RULE % "null,null",), (P(), NAMED[1])),
    ((RULE % "data,model",), (P("data", "model"), NAMED[1])),
    # No axis called embed; one called data.
    (("+model.column=[embed,model]",), NAMED),
    (("+model.column=[data,model]",), (P("data", "model"), NAMED[1])),
    # Logical names are those of flax's rules; others are axes only without rules.
    (
        ("+model.column=[embed,mlp]", "+model.logical=[[mlp,model]]"),
        (NAMED[0], None),
    ),
    # Where the names split nothing, the largest dimension is split.
    (("mesh=fsdp",), (P("fsdp"), P())),
    (("mesh=data_fsdp", "mesh.model=2"), NAMED),
    (("mesh=data",), (P(), P())),
]


@pytest.mark.parametrize(("case", "framework"), each_in_one(PLACED, NAMING))
def test_a_rule_comes_before_names_and_names_before_the_largest(
    case, framework, assembled
):
    overrides, expected = case
    mesh = [] if "mesh=" in overrides[0] else ["mesh=tensor"]
    run = assembled(f"framework={framework}", MODEL, *SHORT, *mesh, *overrides)
    for spec, wanted in zip(specs(run), expected, strict=True):
        assert wanted is None or spec == wanted


WRONG = [
    (
        "+model.width=15",
        r"'model'\] of hidden/kernel \[64, 15\]: mesh.model=2 must divide",
    ),
    ("+model.column=[null,null,model]", "it has only 2 dimensions"),
    ("+model.column=[model,model]", "an axis can split only one dimension"),
]


@pytest.mark.parametrize(("case", "framework"), each_in_one(WRONG, NAMING))
def test_names_that_cannot_be_followed(case, framework, built):
    override, said = case
    with pytest.raises(ConfigError, match=said):
        built(f"framework={framework}", MODEL, *SHORT, "mesh=tensor", override)


@pytest.mark.parametrize("override", one_in(3, [override for override, _ in WRONG]))
def test_a_rule_spares_names_that_cannot_be_followed(override, assembled):
    rules = "mesh.rules=[[hidden/kernel,[data,null]],[output,[null,model]]]"
    asked = MODEL, *SHORT, "mesh=tensor", override, rules
    run = assembled(*asked, "framework=nnx")
    found = start_shapes(run.spec, run.values).carry.state.params
    assert found["hidden"]["kernel"].sharding.spec == P("data", None)


def test_devices_that_would_only_repeat_work_are_refused(built):
    with pytest.raises(ConfigError, match="model=2 splits nothing: no entry of"):
        built("mesh=tensor")
    for framework in ("linen", "nnx"):
        with pytest.raises(ConfigError, match="partitioning, which names heads, mlp"):
            built(
                f"framework={framework}", MODEL, "mesh=tensor",
                "+model.column=[null,mlp]", "+model.row=[heads,null]",
            )  # fmt: skip


def test_the_longest_path_counts():
    axes = Axes(model=2)
    given = {"kernel": ((4, 4), ("model",)), "a/kernel": ((4, 4), (None, "model"))}
    placement = Placement(axes).with_metadata(given)

    def spec(*names, shape=(4, 4)):
        return placement.spec([jax.tree_util.DictKey(name) for name in names], shape)

    assert spec("mu", "kernel") == P("model")
    assert spec("mu", "a", "kernel") == P(None, "model")
    assert spec("mu", "a", "kernel", shape=(1,)) == spec("mu", "b_kernel") == P()


def test_what_is_printed_names_what_no_mesh_has(built):
    stream = io.StringIO()
    run = built(MODEL, *SHORT, "mesh=tensor", "+model.column=[embed,model]")
    print_sharding(run, SESSION.program(run.spec, run.values, run.timetable), stream)
    assert "also names embed: no mesh has" in stream.getvalue()


@pytest.mark.parametrize("framework", one_in(2, ["linen", "nnx"]))
def test_a_killed_run_goes_on_as_it_was_placed(framework, ran, tmp_path):
    asked = (f"framework={framework}", MODEL, "optimizer=adam", "mesh=tensor")
    whole = ran(tmp_path / "whole", *asked)
    ran(tmp_path / "killed", *asked, "checkpoint.every_steps=15", stop=18)
    assert ran(tmp_path / "killed", *asked) == whole
