"""A run ends at its target, or when it no longer improves."""

import json

import pytest

from helpers.at_night import one_in
from helpers.resuming import Killed, arrays_of, killed_at, rows_of
from runner.errors import ConfigError
from runner.job.stop import Stop
from runner.settings import StopSettings

LOSS = {"loss": "min", "accuracy": "max"}
LENGTH = (
    "train.steps=60", "train.epochs=null", "train.eval_every_steps=5",
    "train.log_every_steps=5", "model.hidden_sizes=[16]",
)  # fmt: skip


def ends(values, **settings):
    """The number of evaluations after which a run with these losses ends."""
    given = {"metric": "validation/loss", "value": None, "patience": None}
    stop = Stop(StopSettings(**(given | {"min_delta": 0.0} | settings)), LOSS)
    for i, value in enumerate(values, 1):
        assert stop.reason({"step": i, "train/loss": 0.0}) is None
        if stop.reason({"validation/loss": value, "validation/accuracy": value}):
            return i
    return None


@pytest.mark.parametrize(
    ("values", "settings", "end"),
    [
        ([3, 2, 1], {}, None),
        ([3, 2, 1], {"value": 2.5}, 2),
        ([3, 2, 1], {"value": 2}, 2),
        ([0.1, 0.9], {"value": 0.9, "metric": "validation/accuracy"}, 2),
        ([3, 2, 2, 2], {"patience": 2}, 4),
        ([3, 2, 2, 1, 1, 1], {"patience": 2}, 6),
        ([3, 2.9, 2.8, 2.7], {"patience": 2, "min_delta": 0.25}, 3),
        ([3, float("nan"), float("nan")], {"patience": 2}, 3),
        ([1, 2, 2], {"patience": 1, "metric": "validation/accuracy"}, 3),
    ],
)
def test_when(values, settings, end):
    assert ends(values, **settings) == end


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("framework", one_in(3, ["nnx", "linen", "jax"]))
def test_it_is_finished_with_a_reason_and_its_own_last_state(framework, ran, tmp_path):
    asked = (*LENGTH, f"framework={framework}", "checkpoint.last=true")
    whole = ran(tmp_path / "whole", *asked)
    losses = {r["step"]: r["validation/loss"] for r in whole if "validation/loss" in r}
    target = (losses[20] + losses[25]) / 2
    rows = ran(tmp_path / "run", *asked, f"train.stop.value={target}")
    assert rows == whole[: len(rows)] and rows[-1]["step"] == 25
    found = summary(tmp_path / "run")
    assert found["status"] == "finished" and found["steps"] == 25
    assert found["stopped"] == f"validation/loss reached {target:g}"
    short = ran(tmp_path / "short", *asked, "train.steps=25")
    assert rows == short
    assert found["final"] == pytest.approx(
        summary(tmp_path / "short")["final"]
        | {"time/steps_per_second": found["final"]["time/steps_per_second"]}
    )
    assert arrays_of(tmp_path / "run", 25) == arrays_of(tmp_path / "short", 25)
    state = (tmp_path / "run" / "state.safetensors").read_bytes()
    assert state == (tmp_path / "short" / "state.safetensors").read_bytes()


def test_killed_and_resumed_it_ends_at_the_same_step(ran, tmp_path, monkeypatch):
    asked = (
        *LENGTH, "optimizer.learning_rate=0.1", "train.stop.patience=2",
        "train.stop.min_delta=0.05", "checkpoint.every_steps=5",
    )  # fmt: skip
    whole = ran(tmp_path / "whole", *asked)
    last = whole[-1]["step"]
    assert 15 <= last < 60
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("runner.record.recorder.Recorder.row", killed_at(last - 5))
        ran(tmp_path / "run", *asked)
    assert len(rows_of(tmp_path / "run")) < len(whole) - 1
    assert ran(tmp_path / "run", *asked) == whole
    assert "not improved for 2" in summary(tmp_path / "run")["stopped"]


def test_a_target_needs_a_metric_that_can_be_better(ran, tmp_path):
    for asked, message in (
        ("train.stop.metric=validation/acuracy", "train.stop.metric=.*Did you mean"),
        ("train.stop.metric=accuracy", "Did you mean 'validation/accuracy'"),
        ("train.stop.metric=test/loss", "Did you mean 'validation/loss'"),
        ("train.stop.metric=train/loss", "validation/ metric.* mean 'validation/loss'"),
    ):
        with pytest.raises(ConfigError, match=message):
            ran(tmp_path / "no", *LENGTH, asked, "train.stop.value=1")
