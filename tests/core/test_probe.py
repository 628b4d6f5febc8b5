"""Probes see what the step has computed, and change no bit of the training."""

import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from helpers.at_night import each_in_one, one_in
from helpers.packed import together
from helpers.training import SESSION, train_run
from runner.core import timetable
from runner.core.probes import histogram
from runner.core.run import Host
from runner.errors import ConfigError
from runner.record.files import to_json

LENGTH = (
    "train.epochs=null", "train.steps=12", "train.log_every_steps=4",
    "train.eval_every_steps=6", "model.hidden_sizes=[16]",
)  # fmt: skip
PROBES = (
    "+probe@probes.norms=norm_by_layer", "+probe@probes.moved=update_to_weight",
    "+probe@probes.values=histogram",
    "probes.values.of=[parameters,gradients,updates]",
    "+probes.mine._target_=helpers.user_targets.products",
)  # fmt: skip
MESHES = [
    ("mesh=data", "train.gradient_accumulation=2"),
    ("mesh=fsdp", "mesh.min_shard_elements=1", "precision=bfloat16"),
    ("mesh=tensor", "mesh.rules=[[kernel,[null,model]]]", "mesh.model=2"),
]
ALONE = [
    (("mesh=single", *more), framework)
    for framework in ("jax", "linen", "nnx")
    for more in ([], ["optimizer=muon"])
]


def ended(run):
    """The rows of a run, and the bits of its state at the end."""
    rows, states = [], []
    host = Host(
        lambda index, row: rows.append(row),
        finish=lambda index, state, numbers: states.append(state),
    )
    SESSION.train(run, host)
    return rows, [x.tobytes() for x in jax.tree.leaves(states)]


def without(rows, *kinds):
    return to_json(
        [{k: v for k, v in row.items() if not k.startswith(kinds)} for row in rows]
    )


FRAMEWORKS = ["jax", "linen", "nnx"]


@pytest.mark.parametrize("blocks", one_in(2, [False, True]))
@pytest.mark.parametrize(
    ("mesh", "framework"),
    [
        *each_in_one(MESHES, FRAMEWORKS),
        # Of one device the tests of a population and of a resumed run are.
        *(pytest.param(*case, marks=pytest.mark.nightly) for case in ALONE),
    ],
)
def test_they_change_no_bit(built, mesh, framework, blocks, monkeypatch):
    if blocks:
        monkeypatch.setattr(timetable, "SHORT", 0)
    asked = (*LENGTH, f"framework={framework}", "model.dropout=0.1", *mesh)
    rows, bits = ended(built(*asked))
    probed, again = ended(built(*asked, *PROBES))
    assert again == bits
    assert without(probed, "probe/", "time/") == without(rows, "time/")
    for row in probed:
        norms = [v for k, v in row.items() if k.startswith("probe/norms/gradients")]
        assert len(norms) == 2
        assert math.hypot(*norms) == pytest.approx(row["train/grad_norm"], 1e-3)
        norms = [v for k, v in row.items() if k.startswith("probe/norms/updates")]
        assert math.hypot(*norms) == pytest.approx(row["train/update_norm"], 1e-3)
        assert sum(row["probe/values/gradients/dense_0/counts"]) == 64 * 16 + 16
        assert row["probe/mine/examples"] == 64


def test_a_row_of_a_long_run_has_them_too(trained, monkeypatch):
    short = trained(*LENGTH, *PROBES)
    monkeypatch.setattr(timetable, "SHORT", 0)
    assert to_json(trained(*LENGTH, *PROBES)) == to_json(short)


def test_each_member_has_its_own(built):
    runs = [built(*LENGTH, *PROBES, f"seed={seed}") for seed in (0, 1)]
    plain = [built(*LENGTH, f"seed={seed}") for seed in (0, 1)]
    rows, _ = together(runs)
    assert [without(own, "probe/", "time/") for own in rows] == [
        without(own, "time/") for own in together(plain)[0]
    ]
    for run, own in zip(runs, rows, strict=True):
        alone = []
        train_run(run, alone.append)
        for row, other in zip(own, alone, strict=True):
            assert row.keys() == other.keys()
            key = "probe/norms/updates/dense_0"
            assert row[key] == pytest.approx(other[key], 1e-4)
            key = "probe/values/updates/output/counts"
            assert len(row[key]) == 32 and sum(row[key]) == 16 * 10 + 10


def test_a_resumed_run_has_the_same_rows_and_they_may_change(ran, tmp_path):
    asked = "train.steps=12", "checkpoint.every_steps=4", "train.eval_every_steps=6"
    whole = ran(tmp_path / "whole", *asked, *PROBES)
    plain = ran(tmp_path / "plain", *asked)
    assert "probe/mine/examples" in whole[-1]
    assert without(whole, "probe/") == without(plain)
    for name, probes in (("probed", PROBES), ("changed", ())):
        ran(tmp_path / name, *asked, *probes, stop=7)
        resumed = ran(tmp_path / name, *asked, *PROBES)
        assert "probe/mine/examples" in resumed[-1]
        assert without(resumed, "probe/") == without(plain)
        if probes:
            assert to_json(resumed) == to_json(whole)


def test_what_isnt_finite_is_recorded_and_ends_nothing(trained):
    target = "+probes.bad._target_=helpers.user_targets.not_finite"
    rows = trained(*LENGTH, target)
    assert rows[-1]["step"] == 12
    assert math.isnan(rows[-1]["probe/bad/loss"])
    np.testing.assert_array_equal(rows[-1]["probe/bad/some"], [np.inf, np.nan])


def test_an_integer_is_recorded_as_it_is(trained):
    hooks = (
        "+probes.n._target_=helpers.user_targets.counts",
        "+metrics.n._target_=helpers.user_targets.counted",
    )
    row = trained(*LENGTH, *hooks)[-1]
    assert row["probe/n/one"] == row["train/n"] == row["validation/n"] == 2**24 + 1
    assert row["probe/n/some"] == [2**32 - 1, 0]
    assert row["probe/n/bytes"] == [-1]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        pytest.param(  # JAX looks for who has it for 18 s, among all of these tests
            "keeps", "probes.mine: it keeps a value .* or a cache: helpers.user_targets"
                     r".KEPT. It may only return numbers", marks=pytest.mark.nightly,
        ),
        ("keeps_inner", "probes.mine: it keeps a value .*It may only return numbers"),
        ("too_large", "probes.mine: probe/mine: .*too large.*; return a float"),
    ],
)  # fmt: skip
def test_a_mistake_of_a_probe_is_told_in_one_message(built, target, message):
    with pytest.raises(ConfigError, match=message):
        built(*LENGTH, f"+probes.mine._target_=helpers.user_targets.{target}")


def test_a_histogram_counts_more_than_a_float_can():
    size = 2**24 + 2  # one more is lost in float32
    found = histogram({}, {"w": np.zeros(size, np.int8)}, {}, buckets=1)
    assert int(found["gradients"]["."]["counts"][0]) == size


def test_a_key_of_the_program_alone(assembled):
    run, probed = assembled(*LENGTH), assembled(*LENGTH, *PROBES)
    assert probed.spec.key != run.spec.key
    assert probed.spec.description == run.spec.description


MLPS = ("framework=jax,linen,nnx", "seed=0,1", "mesh=data,single")
# Of nine models the only one whose bits a probe changed, in an earlier form.
RESNET = ("framework=nnx", "model=resnet", "mesh=single", "train.convolution=patches",
          "data.batch_size=2")  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("asked", "strategy", "steps"),
    [
        *((MLPS, "loop", steps) for steps in (44, timetable.SHORT)),
        *((MLPS, "vmap", steps) for steps in (44, timetable.SHORT)),
        (RESNET, "loop", timetable.SHORT),
    ],
)
def test_nor_with_all_that_xla_optimizes(tmp_path, asked, strategy, steps):
    """The other tests have it do little of that."""
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "WANDB_MODE")}
    kept["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"
    sweep = (
        "-m", *asked, "verify=false", "tracker=none",
        "train.epochs=null", f"train.steps={steps}", "train.log_every_steps=22",
        f"hydra.launcher.strategy={strategy}",
    )  # fmt: skip
    for name, probes in (("plain", ()), ("probed", PROBES[:4])):
        command = [sys.executable, "-m", "runner", *sweep, *probes]
        folder = f"hydra.sweep.dir={name}"
        done = subprocess.run(
            [*command, folder], cwd=tmp_path, env=kept, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
    plain, probed = (
        [state.read_bytes() for state in sorted((tmp_path / name).rglob("state.*"))]
        for name in ("plain", "probed")
    )
    assert len(plain) == (12 if asked is MLPS else 1)
    assert plain == probed
