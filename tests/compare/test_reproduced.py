"""Runs that have to agree, and what is said where they don't."""

import json

import pytest

from helpers.compare_runs import write_run
from runner.compare.__main__ import main
from runner.compare.analysis import analyse
from runner.compare.headline import headline
from runner.compare.load import load

SHARED = {
    "python": "3.11",
    "initial_parameters": "i",
    "first_batch": "b",
    "devices": ["cpu"],
}
LOSS, NORM = "train/loss", "train/grad_norm"


@pytest.fixture
def found(tmp_path):
    """What the control of these runs, each {arguments of `write_run`}, contradicts."""

    def found(*runs, by="optimizer"):
        for i, run in enumerate(runs):
            first = run.pop("first", {})
            facts = SHARED | run.pop("provenance", {})
            write_run(tmp_path / str(i), provenance=facts, **run)
            path = tmp_path / str(i) / "metrics.jsonl"
            if first:
                row = json.dumps({"step": 1} | first)
                path.write_text(row + "\n" + path.read_text())
        analysis = analyse(load([tmp_path]), by=by)
        assert not (analysis.control.apart and analysis.control.controlled)
        return analysis.control.apart

    return found


def test_repeats_that_do_not_agree_are_never_averaged(found, tmp_path, capsys):
    twice = [{"final": 1.037}, {"final": 2.223, "provenance": {"python": "3.99"}}]
    apart = found(*twice, {"optimizer": "sgd", "final": 1.5})
    assert apart == {
        "NOT REPRODUCED": [
            "0 and 1, with the same configuration and seed, end at 1.037 and 2.223 "
            "(they differ in python)"
        ]
    }
    analysis = analyse(load([tmp_path]), by="optimizer")
    assert headline(analysis).startswith("no fair comparison by optimizer: 0 and 1, wi")
    means = {g.name: g.mean for g in analysis.final.groups}
    assert means == {"adam": 2.223, "sgd": 1.5}  # the worst of them, not 1.63
    arguments = [str(tmp_path), "--out", str(tmp_path / "out"), "--no-report"]
    assert main([*arguments, "--strict"]) == 3
    assert capsys.readouterr().out.startswith("NOT REPRODUCED: 0 and 1")


def test_repeats_that_agree_count_once(found, tmp_path):
    again = [{"final": 1.0}, {"final": 1.00001}]
    assert not found(*again, {"optimizer": "sgd", "final": 1.5})
    analysis = analyse(load([tmp_path]), by="optimizer")
    assert analysis.final.groups[0].runs == 1
    assert any("1 runs repeat others" in w for w in analysis.warnings)


@pytest.mark.parametrize("status", ["failed", "refused"])
def test_a_repeat_that_failed_is_not_reproduced(found, status):
    runs = {"final": 1.0}, {"final": 1.0, "status": status}
    (text,) = found(*runs, {"optimizer": "sgd"})["NOT REPRODUCED"]
    assert text.endswith("end at 1 and nothing (it failed)")


@pytest.mark.parametrize(
    "second,by,apart",
    [
        ({}, "optimizer", False),
        ({"first": {LOSS: 2.41, NORM: 1.0}}, "optimizer", "the loss of step 1 is 2.3"),
        (
            {"first": {LOSS: 2.3, NORM: 1.1}},
            "optimizer",
            "the gradient's norm of step 1",
        ),
        # Frameworks may round gradients otherwise, and the loss nearly the same.
        ({"first": {LOSS: 2.3, NORM: 1.1}, "framework": "jax"}, "framework", False),
        (
            {"first": {LOSS: 2.41}, "framework": "jax"},
            "framework",
            "the loss of step 1",
        ),
        # They have dropout of their own.
        (
            {
                "first": {LOSS: 2.41},
                "framework": "jax",
                "config": {"model.dropout": 0.1},
            },
            "framework",
            False,
        ),
        # What isn't shared may differ.
        (
            {"first": {LOSS: 2.41}, "provenance": {"initial_parameters": "other"}},
            "optimizer",
            False,
        ),
        (
            {"first": {LOSS: 2.41}, "provenance": {"first_batch": "x"}},
            "optimizer",
            False,
        ),
        (
            {"first": {LOSS: 2.41}, "config": {"task.label_smoothing": 0.1}},
            "task.label_smoothing",
            False,
        ),
        ({"first": {LOSS: 2.41}, "config": {"model.width": 9}}, "model.width", False),
        # A port is another function that has to compute the same.
        (
            {
                "first": {LOSS: 2.41},
                "model": "port",
                "config": {"model._target_": "a.b"},
            },
            "framework",
            "the loss of step 1",
        ),
        # TensorFloat-32.
        (
            {"first": {LOSS: 2.302, NORM: 1.0}, "provenance": {"devices": ["H100"]}},
            "optimizer",
            False,
        ),
    ],
)
def test_what_runs_share_decides_the_first_step(found, second, by, apart):
    base = {"first": {LOSS: 2.3, NORM: 1.0}}
    other = {"optimizer": "sgd"} if by == "optimizer" else {}
    result = found(base, base | other | second, by=by)
    texts = result.get("DIFFERENT FROM STEP 1", [])
    assert any(apart in text for text in texts) if apart else not texts
