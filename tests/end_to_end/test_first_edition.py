"""Run folders that the first edition wrote are read as its own program read them."""

import re
import shutil
from pathlib import Path

import pytest

from helpers.training import build_job
from runner.compare.__main__ import main as compare
from runner.errors import ConfigError
from runner.job.resume import resume
from runner.replay.__main__ import main as replay

RUNS = Path(__file__).parents[1] / "fixtures" / "first_edition"
# What is said of them, but for the widths of columns. Means, differences and p are what
# the first edition's compare printed; its intervals were of a bootstrap.
SAID = """
sgd is better than adam on eval/loss by 0.02672 [0.0003286, 0.0531] over 2 paired seeds
CONTROLLED: of what was recorded, only optimizer and what follows from it differ
unknown, so not compared: data (not recorded in 5 of 5 runs); first batch (not recorded
in 5 of 5 runs)
also vary, compared at equal values: framework (linen, nnx); schedule (sgdr,
warmup_cosine); seed (0, 1)
follows from optimizer: optimizer._target_, optimizer.b1, optimizer.b2 and 5 more
framework=nnx sgd 2.183 [2.022, 2.343] 2 2
framework=nnx adam 2.209 [2.075, 2.343] 2 2
sgd - adam sgd is better -0.02672 [-0.0531, -0.0003286] 100% 100% 0.049 2
"""


def test_compare(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not compare([str(RUNS), "--by", "optimizer"])
    said = " ".join(capsys.readouterr().out.split())
    starts = "CONTROLLED|unknown|also|follows|framework=nnx|sgd - adam"
    for part in re.split(f" (?=(?:{starts}))", " ".join(SAID.split())):
        assert part in said
    assert (tmp_path / "compare" / "report.html").exists()


def test_it_is_neither_replayed_nor_resumed(tmp_path, capsys, composed):
    folder = Path(shutil.copytree(RUNS / "single", tmp_path / "run"))
    assert replay([str(folder)]) == 1
    assert "is of format 1" in capsys.readouterr().err
    cfg = composed("train.epochs=1")
    cfg.checkpoint.resume = "auto"
    with pytest.raises(ConfigError, match=r"format 1, .* can't be resumed"):
        resume(cfg, build_job(cfg).run, folder, {}, False)
