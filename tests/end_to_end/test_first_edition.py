"""Run folders that the first edition wrote are read as its own program read them."""

import shutil
from pathlib import Path

import pytest

from helpers.training import build_job
from runner.compare.__main__ import main as compare
from runner.errors import ConfigError
from runner.job.resume import resume
from runner.replay.__main__ import main as replay

RUNS = Path(__file__).parents[1] / "fixtures" / "first_edition"
# What the first edition's compare printed of them, but for the widths of columns, and
# what only the second edition records.
SAID = """
optimizer explains the difference: sgd is better than adam on eval/loss by 0.02672
[0.02464, 0.02879] over 2 paired seeds
CONTROLLED: of what was recorded, only optimizer and what follows from it differ
unknown, so not compared: data (not recorded in 5 of 5 runs); first batch (not recorded
in 5 of 5 runs)
also vary, compared at equal values: framework (linen, nnx); schedule (sgdr,
warmup_cosine); seed (0, 1)
follows from optimizer: optimizer._target_ (optax.adam, optax.sgd); optimizer.b1 (0.9,
null); optimizer.b2 (0.999, null); optimizer.eps (1e-08, null); optimizer.eps_root (0.0,
null); optimizer.learning_rate (0.001, 0.1); schedule.peak_value (0.001, 0.1); optimizer
probe (probe 1, probe 2, probe 3)
sgd 3 2 2.183 [2.17, 2.195]
adam 2 2 2.209 [2.199, 2.22]
sgd - adam -0.02672 [-0.02879, -0.02464] 2 100% 0.049 better
"""


def test_compare(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not compare([str(RUNS), "--by", "optimizer"])
    said = " ".join(capsys.readouterr().out.split())
    for line in " ".join(SAID.split()).split(" sgd 3 "):
        assert line.split(" adam 2 2")[0] in said
    assert (tmp_path / "compare" / "report.html").exists()


def test_it_is_neither_replayed_nor_resumed(tmp_path, capsys, composed):
    folder = Path(shutil.copytree(RUNS / "single", tmp_path / "run"))
    assert replay([str(folder)]) == 1
    assert "is of format 1" in capsys.readouterr().err
    cfg = composed("train.epochs=1")
    cfg.checkpoint.resume = "auto"
    with pytest.raises(ConfigError, match=r"format 1, .* can't be resumed"):
        resume(cfg, build_job(cfg).run, folder, {}, False)
