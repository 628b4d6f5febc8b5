"""Runs that are killed, and what they leave behind."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from runner.config.hydra_job import HydraJob
from runner.job.run import run_job
from runner.record.files import read_metrics
from runner.record.recorder import Recorder

# In pure JAX, which is traced in half the time of the others.
SMALL = (
    "framework=jax", "model.hidden_sizes=[16]", "train.epochs=null", "train.steps=40",
    "train.log_every_steps=1", "train.eval_every_steps=15", "checkpoint.last=true",
    "train.steps_per_call=4",
)  # fmt: skip


class Killed(BaseException):
    pass


def killed_at(step):
    original = Recorder.row

    def row(self, row):
        if row["step"] == step:
            raise Killed
        original(self, row)

    return row


def rows_of(folder: Path) -> list[dict]:
    rows = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in rows]


def arrays_of(folder: Path, step: int) -> dict[str, bytes]:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore(folder / "checkpoints" / str(step) / "state")
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(p): np.asarray(x).tobytes() for p, x in leaves}


def record(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())


def run(cfg, folder: Path, stop: int | None) -> list[dict]:
    """The rows of a job in `folder`; `stop` is a step whose row kills it."""
    folder.mkdir(exist_ok=True)  # as Hydra does
    composed = HydraJob(folder, {}, [], None)
    if stop is None:
        run_job(cfg, composed)
    else:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Recorder, "row", killed_at(stop))
            run_job(cfg, composed)
    return rows_of(folder)
