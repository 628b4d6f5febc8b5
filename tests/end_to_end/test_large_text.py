"""Text that is larger than the memory that training on it may take."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.resuming import rows_of

SIZE, MOST = 2 * 10**9, 1.5 * 10**9  # bytes of text, and of memory


def write_text(path: Path) -> None:
    """SIZE letters and spaces."""
    letters = np.frombuffer(b"etaoin shrdlu cmfwyp vbgkjqxz\n", np.uint8)
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        while (left := SIZE - file.tell()) > 0:
            chosen = rng.integers(len(letters), size=min(left, 10**8), dtype=np.uint8)
            file.write(letters[chosen].tobytes())


def peak(folder: Path, *arguments: str) -> int:
    """The bytes of memory that a run had at most."""
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "runner", *arguments],
            cwd=folder,
            env=os.environ | {"WANDB_MODE": "disabled", "JAX_NUM_CPU_DEVICES": "1"},
            stderr=stderr,
        )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (folder / "stderr").read_text()
    return usage.ru_maxrss * 1024


@pytest.mark.nightly
def test_two_gigabytes_train_in_less_memory_and_are_resumed(tmp_path):
    text = tmp_path / "text.txt"
    write_text(text)
    given = (
        "data=text", f"data.path={text}", f"data.data_dir={tmp_path}/tokens",
        "data.validation=0.00001", "data.block_size=64", "model=transformer",
        "model.width=32", "model.heads=2", "model.layers=1", "train.epochs=null",
        "train.log_every_steps=1", "train.eval_every_steps=1000",
        "checkpoint.last=true",
    )  # fmt: skip
    steps = 4000  # of 12 windows: without care 4 KiB or more of the file stay for each
    runs = [("whole", steps), ("half", steps // 2), ("half", steps)]
    memory = [
        peak(tmp_path, *given, f"hydra.run.dir={name}", f"train.steps={length}")
        for name, length in runs
    ]
    print("peak memory in MB:", [round(each / 1e6) for each in memory])
    assert max(memory) < MOST
    assert len(rows_of(tmp_path / "whole")) == steps
    assert rows_of(tmp_path / "half") == rows_of(tmp_path / "whole")
    provenance = json.loads((tmp_path / "half" / "provenance.json").read_text())
    (file,) = provenance["data_digest"]["files"]
    assert file["path"] == str(text) and file["bytes"] == SIZE
    text.unlink()
