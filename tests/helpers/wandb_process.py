"""Runs with a W&B mirror, each in a process of its own, and what they leave."""

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers.wandb_run import wandb_run
from runner.record.mirrors.wandb_reader import wandb_files

# Each run is a process of its own, as wandb keeps one core process a process.
RUN = """
import json, os, secrets, signal, subprocess, sys, time
from pathlib import Path
from runner.record.mirrors import helper
from runner.record.recorder import Recorder

helper.WAIT_SECONDS = 60.0  # on a machine that is busy
TRACKERS = {"wandb": {"_target_": "runner.record.mirrors.wandb.WandbTracker"}}
FIELDS = {"mode": "offline", "project": "runner", "group": "sweep", "name": "lr=0.1",
          "job_type": "train", "tags": ["adam"]}

def recorder_of(folder, rows=20, kept=None, id=None, trackers=TRACKERS, config={},
                **fields):
    config = {"wandb": FIELDS | fields, **config}
    provenance = {"wandb_id": id or secrets.token_hex(4), "directions": {"loss": "min"}}
    return Recorder(Path(folder), config=config, quiet=True, total_steps=rows,
                    provenance=provenance, trackers=trackers, kept=kept)

def record(folder, rows=20, each=lambda step: None, config={}, **given):
    global recorder
    config = {"optimizer": {"name": "adam"}, "seed": 3, **config}
    with recorder_of(folder, rows, config=config, **given) as recorder:
        for step in range(1, rows + 1):
            each(step)
            recorder.row({"step": step, "train/loss": 1 / step})
        recorder.finish({"compile_seconds": 0.5})
    recorder.mirror.wait()
    return recorder

def core_pids():
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stats.append(path.read_text().split())
        except OSError:  # that process has just ended
            pass
    parents = {str(one.process.pid) for one in helper._helpers} | {str(os.getpid())}
    ours = [s for s in stats if s[1] == "(wandb-core)" and s[3] in parents]
    return [int(stat[0]) for stat in ours]

def wait_for_start():
    while not recorder.mirror.states()["wandb"].get("where"):
        time.sleep(0.02)
"""


def clean_env(env):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    return {
        **inherited,
        "WANDB_INIT_TIMEOUT": "3",
        "WANDB_FINISH_TIMEOUT": "3",
        **env,
    }


def start(folder: Path, code: str, **env):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", RUN + code],
        cwd=folder,
        env=clean_env(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, code: str, expect: int = 0, **env) -> str:
    process = start(folder, code, **env)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == expect, err
    return out + err


def mirrored(folder: Path) -> dict:
    # A failed online start leaves an empty folder beside the offline one.
    runs = [wandb_run(path) for path in wandb_files(folder)]
    (run,) = [run for run in runs if run["history"]]
    return run


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def brought(folder: Path, *arguments: str, expect: int = 0, **env) -> str:
    """What `python -m runner.mirror` says."""
    env = clean_env(env | {"WANDB_INIT_TIMEOUT": "20"})
    env.pop("WANDB_MODE", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "runner.mirror", *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == expect, done.stderr
    return done.stdout
