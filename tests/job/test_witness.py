"""A witness refuses what trains otherwise than configured, and nothing else."""

import json
import random

import jax
import numpy as np
import pytest

from helpers.resuming import arrays_of
from helpers.sabotaged_late import CASES
from helpers.shipped import NAMES
from helpers.small_models import small_convnet
from helpers.unusual import unusual
from helpers.user_targets import NOISY, out_of_memory
from helpers.witnessed import facts_of, witnessed
from runner.checks import witness as checks_witness
from runner.checks.agreement import Agreement
from runner.checks.comparison import Comparison
from runner.core.run import BLIND
from runner.core.timetable import Cut
from runner.errors import ConfigError, Refused
from runner.job import witness

# One of each kind: late, evaluation, initial values, bfloat16. Below are one of
# gradients, whose record is read, and one of packed runs, which all are refused.
ALWAYS = (
    "late_in_a_wrapper_linen", "bfloat16_skips_jax", "large_has_temperature_nnx",
    "large_starts_scaled_linen",
)  # fmt: skip
REFUSED = [
    pytest.param(
        *case, id=case[0], marks=[] if case[0] in ALWAYS else pytest.mark.nightly
    )
    for case in CASES
]
SILENT = [
    pytest.param(*case, id=case[0], marks=[] if i < 1 else pytest.mark.nightly)
    for i, case in enumerate(CASES)
]


@pytest.fixture
def sabotaged(built):
    """Train a sabotaged pipeline, verified before and watched meanwhile."""

    def sabotaged(pipeline, overrides, packed):
        asked = (
            "verify=true", "train.epochs=null", "train.log_every_steps=1", *overrides,
            f"framework._target_=helpers.sabotaged_late.{pipeline}",
        )  # fmt: skip
        return witnessed(*(built(*asked, f"seed={seed}") for seed in range(packed)))

    return sabotaged


@pytest.mark.parametrize("pipeline,overrides,message,packed", REFUSED)
def test_what_only_a_witness_sees_is_refused(
    pipeline, overrides, message, packed, sabotaged
):
    with pytest.raises(Refused, match=f"(?s)^verify: .*{message}.*verify=false"):
        sabotaged(pipeline, overrides, packed)


@pytest.mark.parametrize("pipeline,overrides,message,packed", SILENT)
def test_without_a_witness_it_trains_silently(
    pipeline, overrides, message, packed, sabotaged, monkeypatch
):
    monkeypatch.setattr(witness, "Recomputing", lambda *_: BLIND)
    rows, _ = sabotaged(pipeline, overrides, packed)
    assert rows[-1]["step"] >= 22


MISJUDGED = {
    "by_batch": "outputs of an example depend on the other examples of its batch",
    "noisy": "outputs of an example depend on its place in the batch",
    "dropped": "outputs of an example depend on its place in the batch",
    "everybody": "the metric mine depends on examples that don't count",
    "divided_by_all": "the metric mine depends on examples that don't count",
}
BARE = ("~model.hidden_sizes", "~model.activation", "~model.dropout")


def with_part(name, always="true"):
    """The overrides that choose a part of a user's."""
    target = f"_target_=helpers.misjudged.{name}"
    if name == "dropped":
        return ("framework=jax", f"model.{target}", f"+model.always={always}", *BARE)
    if name in ("by_batch", "noisy"):
        return ("framework=jax", f"data.transforms=[{{{target.replace('=', ': ')}}}]")
    return ("framework=jax", f"+metrics.mine.{target}")


@pytest.mark.parametrize("name", MISJUDGED)
def test_an_evaluation_of_an_example_is_of_it_alone(name, built):
    with pytest.raises(Refused, match=f"^verify: .*{MISJUDGED[name]}.*verify=false"):
        witnessed(built(*WIDTHLESS, *with_part(name)))


def test_a_metric_may_need_so_many_examples(built):
    # 66 are cut in halves of 33, which have no pairs.
    asked = (*WIDTHLESS, "data.batch_size=66", *with_part("paired"))
    witnessed(built(*asked))


def test_what_training_never_moves_is_named(built):
    asked = (*WIDTHLESS, *with_part("dropped", "false"))
    assert facts_of(built(*asked))["unchanged"] == [
        "model_state/norm/mean",
        "params/unused",
    ]
    still = "+optimizer.groups.still={pattern: unused, frozen: true}"
    assert facts_of(built(*asked, still))["unchanged"] == ["model_state/norm/mean"]
    assert "unchanged" not in facts_of(built(*SMALL, "framework=jax"))


SMALL = (
    "train.epochs=null", "train.steps=30", "train.eval_every_steps=10",
    "model.hidden_sizes=[16]",
)  # fmt: skip
WIDTHLESS = SMALL[:3]
CNN = (
    "train.epochs=null", "train.steps=5", "train.eval_every_steps=4", "model=cnn",
    "model.channels=[4]", "data.batch_size=16",
)  # fmt: skip
AUTOENCODER = (
    "train.epochs=null", "train.steps=30", "data=linear_ae", "model=linear_autoencoder",
    "task=reconstruction",
)  # fmt: skip
CONVNET = (*CNN[:3], "model=convnet", small_convnet(), "data.batch_size=16")
RESNET = (*CNN[:3], "model=resnet", "model.depth=8", "model.width=2")
QUADRATIC = ("train.epochs=null", "train.steps=30", "model=quadratic", "data=quadratic")
NAN = (
    *SMALL, "framework=jax", "optimizer=sgd", "optimizer.learning_rate=1e6",
    "train.on_nan=continue",
)  # fmt: skip
FEW, LONG = (
    ("train.epochs=null", f"train.steps={steps}", "train.eval_every_steps=500",
     f"optimizer.learning_rate={rate}")
    for steps, rate in ((30, 0.001), (3000, 0.03))
)  # fmt: skip
UNUSUAL = [  # overrides, and how many train side by side
    ((*FEW, *unusual("any", batch=1), "framework=jax"), 1),
    ((*FEW, *unusual("any", batch=1, model="dropped"), "framework=nnx"), 1),
    ((*FEW, *unusual("missing"), "framework=linen"), 1),
    ((*FEW, *unusual("zero"), "framework=jax"), 1),
    ((*FEW, *unusual("huge"), "framework=jax"), 1),
    ((*FEW, *unusual("tiny"), "framework=jax"), 1),
    ((*LONG, *unusual("one"), "framework=jax"), 1),
    ((*LONG, *unusual("any"), "framework=jax"), 1),
    ((*LONG, *unusual("any"), "framework=jax", "optimizer=sgd"), 3),
    ((*LONG, *unusual("any", task="hinge"), "framework=jax"), 1),
    ((*FEW, *unusual("any", task="weightless"), "framework=jax"), 1),
    ((*FEW, *unusual("any", task="nan_where_missing"), "framework=linen"), 1),
    ((*FEW, *unusual("any", task="constant"), "framework=jax"), 1),
    ((*FEW, *unusual("any", model="remat"), "framework=linen"), 1),
    ((*FEW, *unusual("any", model="tied"), "framework=jax", "optimizer=lamb"), 1),
    ((*FEW, *unusual("any", model="embedding"), "framework=jax"), 3),
    ((*LONG, *unusual("any", model="straight_through"), "framework=jax"), 1),
    ((*SMALL, "framework=jax", "train.steps=1"), 1),
    ((*SMALL, "framework=linen", "optimizer.learning_rate=100"), 1),
    ((*SMALL, "framework=jax", "precision=bfloat16", "optimizer=sgd",
      "optimizer.learning_rate=1e-7"), 1),
    ((*SMALL, "framework=linen", "data.batch_size=63",
      "train.gradient_accumulation=7"), 1),
    ((*SMALL, "framework=jax", "data.batch_size=100"), 1),
    ((*SMALL, "framework=jax",
      "+optimizer.groups.still={pattern: 'dense|kernel', frozen: true}"), 1),
]  # fmt: skip
TENSOR = (*SMALL, "mesh=tensor", "mesh.rules=[[kernel,[null,model]]]")
HONEST = [  # overrides, how many train side by side, and whether always
    ((*SMALL, "framework=jax", "optimizer=lion", "precision=bfloat16"), 1, True),
    ((*SMALL, "framework=linen", "model.dropout=0.3", "train.ema_decay=0.9"), 3, True),
    ((*CNN, "framework=nnx", "train.gradient_accumulation=2"), 1, False),
    (NAN, 1, True),
    ((*FEW, *unusual("any", model="held"), "framework=nnx"), 1, True),
    ((*SMALL, "mesh=data_fsdp", "framework=nnx", "optimizer=sm3"), 1, True),
    (("train.epochs=null", "train.steps=1100", "framework=jax", "optimizer=sign_sgd",
      "model.hidden_sizes=[8]", "train.eval_every_steps=1100"), 1, False),
    *(((*base, f"framework={framework}", *more), 1 + 2 * packed, False)
      for framework in ("jax", "linen", "nnx")
      for base, more, packed in (
          (SMALL, ("optimizer=sm3",), False),
          (SMALL, ("optimizer=schedule_free_adamw",), True),
          (SMALL, ("precision=bfloat16", "model.dropout=0.2"), True),
          (SMALL, ("schedule=reduce_on_plateau", "schedule.patience=1"), False),
          (SMALL, ("data.mode=stream", "train.gradient_accumulation=4"), False),
          (SMALL, ("debug=find_nan",), False),
          (SMALL, ("mesh=fsdp", "optimizer=adafactor"), False),
          (SMALL, ("mesh=data",), True),
          (CNN, (), False),
          (CNN, ("train.convolution=patches",), True),
          (CONVNET, ("precision=bfloat16",), False),
          (CONVNET, ("train.convolution=patches",), True),
          (RESNET, ("train.gradient_accumulation=2",), True),
          (QUADRATIC, ("mesh=data",), True),
          (AUTOENCODER, ("optimizer=sgd",), False),
      )),
    ((*NOISY, *SMALL[:3]), 1, False),
    (TENSOR, 1, False),
    *((*case, False) for case in UNUSUAL),
]  # fmt: skip


@pytest.mark.parametrize(
    "overrides,packed",
    [
        pytest.param(*case[:2], marks=[] if case[2] else pytest.mark.nightly)
        for case in HONEST
    ],
)
def test_no_honest_run_is_refused(overrides, packed, built):
    runs = [built(*overrides, f"seed={seed}") for seed in range(packed)]
    _, seen = witnessed(*runs)
    assert [one["checked"].split(",")[0] for one in seen] == ["parameters"] * len(seen)
    assert seen[0]["step"] == 1


@pytest.mark.nightly
@pytest.mark.parametrize("optimizer", NAMES)
def test_no_optimizer_is_refused(optimizer, built):
    witnessed(built(*SMALL, "framework=jax", f"optimizer={optimizer}"))


def test_nothing_of_the_training_changes(ran, tmp_path):
    on = ran(tmp_path / "on", "verify=true", "checkpoint.last=true")
    off = ran(tmp_path / "off", "verify=false", "checkpoint.last=true")
    assert on == off
    assert arrays_of(tmp_path / "on", 40) == arrays_of(tmp_path / "off", 40)
    seen = summary(tmp_path / "on")["witnesses"]
    assert seen[0] == {
        "step": 1,
        "steps": seen[0]["steps"],
        "checked": "parameters, model state, optimizer state, rows",
    }
    assert seen[-1]["step"] + seen[-1]["steps"] == 41
    assert seen[-1]["checked"].endswith("rows, validation")
    assert summary(tmp_path / "off")["witnesses"] == "none: verify=false"


def test_a_resumed_run_is_watched_too(ran, tmp_path):
    ran(tmp_path / "run", "verify=true", "checkpoint.every_steps=10", stop=28)
    ran(tmp_path / "run", "verify=true", "checkpoint.every_steps=10")
    seen = summary(tmp_path / "run")["witnesses"]
    assert seen[0]["step"] in (11, 21) and "parameters" in seen[0]["checked"]


def test_a_refused_run_says_why_and_is_not_resumed(ran, tmp_path):
    sabotaged = "framework._target_=helpers.sabotaged_late.large_halves_gradients_jax"
    asked = ("verify=true", "~model.hidden_sizes", sabotaged, "checkpoint.last=true")
    with pytest.raises(Refused):
        ran(tmp_path / "run", *asked)
    found = summary(tmp_path / "run")
    assert found["status"] == "refused"
    assert "train/grad_norm was" in found["error"]
    assert not (tmp_path / "run" / "error.txt").exists()
    with pytest.raises(ConfigError, match="holds a run that was refused"):
        ran(tmp_path / "run", *asked, "checkpoint.resume=auto")


def test_where_memory_is_short_the_record_says_so(ran, tmp_path, monkeypatch):
    monkeypatch.setattr(witness, "free_bytes", lambda: 1000.0)
    ran(tmp_path / "run", "verify=true")
    seen = summary(tmp_path / "run")["witnesses"]
    assert {one["checked"] for one in seen} == {"nothing: too little memory"}


def test_a_witness_that_runs_out_of_memory_ends_no_run(ran, tmp_path, monkeypatch):
    def compared(*_):
        return float(out_of_memory(1.0))

    monkeypatch.setattr(Comparison, "_compare_steps", compared)
    ran(tmp_path / "run", "verify=true")
    found = summary(tmp_path / "run")
    assert found["status"] == "finished"
    checked = {one["checked"] for one in found["witnesses"]}
    assert checked == {"nothing: too little memory"}


def test_of_a_long_call_the_beginning_is_computed_again(built, monkeypatch):
    monkeypatch.setattr(checks_witness, "MOST_STEPS", 4)
    run = built(*SMALL, "framework=jax")
    assert run.timetable.cut(1024) == Cut(1, (10,))
    _, seen = witnessed(run)
    assert {one["checked"] for one in seen} == {"rows, validation"}


def test_a_state_that_is_not_the_optimizers_is_left_out(built):
    """A pipeline may keep it in its own way: later steps are compared one by one."""
    own = "framework._target_=helpers.sabotaged_late.honest_in_its_own_way_jax"
    _, seen = witnessed(built(*SMALL, own))
    assert seen[0]["checked"] == "parameters, model state, rows, validation"
    assert "loss, metrics and gradient norm of one step" in seen[-1]["checked"]


def test_noise_has_how_a_population_rounds(built, monkeypatch):
    """Among copies, the reference takes exactly the steps of the live member."""
    off = []

    def steps(self, found, again):
        off.append((list(again)[-1].distances.off, found.distances.off))

    monkeypatch.setattr(Agreement, "steps", steps)
    given = "framework=jax", "train.epochs=4", "optimizer.learning_rate=0.02"
    witnessed(*(built(*given, f"seed={seed}") for seed in range(3)))
    assert len(off) > 1
    for packed, live in off:
        jax.tree.map(np.testing.assert_array_equal, packed, live)


def test_members_are_looked_at_in_turn(built, monkeypatch):
    class First(random.Random):
        def choice(self, given):
            return given[0]

    monkeypatch.setattr(checks_witness.secrets, "SystemRandom", First)
    runs = [built(*SMALL, "framework=jax", f"seed={seed}") for seed in range(3)]
    _, seen = witnessed(*runs)
    assert [one["member"] for one in seen] == [0, 1]


def test_a_population_is_refused_together(built):
    name = "helpers.sabotaged_late.mapped_halves_gradients_jax"
    asked, errors = (*SMALL, f"framework._target_={name}"), {}
    with pytest.raises(Refused):
        witnessed(*(built(*asked, f"seed={seed}") for seed in range(3)), errors=errors)
    assert sorted(errors) == [0, 1, 2]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())
