"""benchmarks/accelerator.py works where there is no accelerator, too."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner.config import conf

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def small(folder: Path, *arguments: str) -> dict:
    """What `--small` writes, if nothing fails."""
    command = [sys.executable, str(BENCHMARKS / "accelerator.py"), "--small"]
    done = subprocess.run(
        [*command, "--repeats", "1", *arguments], cwd=folder,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((folder / "accelerator.json").read_text())
    assert found["devices"] == ["cpu"] and found["packages"]["jax"]
    assert "--xla_gpu_deterministic_ops=true" in found["xla_flags"]
    assert found["failures"] == {} and found["left_out"] == []
    for row in found["rows"]:
        assert row["way"] in done.stdout
        assert row["said"] or row["ratio"] > 0
    return found


WAYS = ["runner", "lax.scan by hand", "nnx.jit, a call a step"]


def test_a_case_of_the_loop(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from bench import Bench
    from speed import loop

    conf.register()
    cases = dict(loop(Bench(True, 1, math.inf, tmp_path)))
    assert [row.way for row in cases["mlp"]()] == WAYS


@pytest.mark.nightly
def test_the_loop(tmp_path):
    rows = small(tmp_path, "--only", "loop")["rows"]
    models = ["mlp", "cnn", "transformer"]
    assert [(r["case"], r["way"]) for r in rows] == [
        (model, way) for model in models for way in WAYS
    ]
    assert all(r["ratio"] == 1 for r in rows if r["way"] == "runner")


@pytest.mark.nightly
def test_all_of_it(tmp_path):
    sections = {row["section"] for row in small(tmp_path)["rows"]}
    assert sections == {
        "loop", "packing", "bits", "determinism", "jobs", "precision"
    }  # fmt: skip


def test_a_failure_loses_nothing_else_and_time_ends(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import accelerator
    from bench import Bench, Row

    def fails():
        raise ValueError("first line\nmine to see")

    def takes_all():
        bench.until = time.monotonic() - 1
        return [Row("one", "long", "way", said="done")]

    def too_long():
        raise TimeoutError("about 9 s")

    monkeypatch.setattr(accelerator, "SECTIONS", {
        "one": lambda bench: iter(
            [("bad", fails), ("huge", too_long), ("long", takes_all)]
        ),
        "two": lambda bench: iter([("never", fails)]),
    })  # fmt: skip
    bench, saved = Bench(True, 1, math.inf, tmp_path), []
    report = accelerator.run_all(bench, ["one", "two"], saved.append)
    assert report.failures == {"one: bad": "ValueError: mine to see"}
    assert report.left_out == ["one: huge (about 9 s)", "two: never"]
    assert [row.case for row in report.rows] == ["long"] and len(saved) == 3
    report.show()
    assert "failed: one: bad: ValueError: mine to see" in capsys.readouterr().out
