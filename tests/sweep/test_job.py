"""Names of jobs: readable, and never one for two."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from runner.errors import ConfigError
from runner.record.files import write_json
from runner.sweep.job import assign_folder, job_name, load_finished, varying


def job_in(sweep, folder):
    settings = {"hydra": {"sweep": {"dir": "", "subdir": ""}}, "objective": "loss",
                "checkpoint": {"resume": "never"}}  # fmt: skip
    job = SimpleNamespace(config=OmegaConf.create(settings), folder=Path())
    assign_folder(job, sweep, folder)  # pyright: ignore
    return job


@pytest.mark.parametrize("folder", ["../foreign", "{}/foreign", "link", ".", "a/.."])
def test_only_what_is_in_the_sweep_is_deleted(tmp_path, folder):
    sweep, foreign = tmp_path / "sweep", tmp_path / "foreign"
    for path in (sweep / "own", foreign):
        path.mkdir(parents=True)
        write_json(path / "summary.json", {"status": "failed"})
    (sweep / "link").symlink_to(foreign)
    with pytest.raises(ConfigError, match="must lie within that of its sweep"):
        job_in(sweep, folder.format(tmp_path))
    assert not load_finished(job_in(sweep, "own"))  # pyright: ignore
    assert foreign.exists() and not (sweep / "own").exists()


@pytest.mark.parametrize(
    "summary", [[], 3, {"status": "finished"}, {"status": "finished", "final": {}},
                {"status": "finished", "final": {"loss": []}}],
)  # fmt: skip
def test_a_damaged_result_is_named(tmp_path, summary):
    (tmp_path / "a").mkdir()
    write_json(tmp_path / "a" / "summary.json", summary)
    with pytest.raises(ConfigError, match=r"a/summary\.json"):
        load_finished(job_in(tmp_path, "a"))  # pyright: ignore


def test_a_job_is_called_after_what_tells_it_from_the_others():
    jobs = [
        ["optimizer=sgd", "train.epochs=3", "seed=0"],
        ["optimizer=adam", "train.epochs=3", "seed=0", "+optimizer.b1=0.5"],
    ]
    keys = varying(jobs)
    assert keys == ["optimizer", "+optimizer.b1"]
    assert job_name(jobs[0], keys) == "optimizer=sgd"
    assert job_name(jobs[1], keys) == "optimizer=adam,optimizer.b1=0.5"
    alone = jobs[0]
    assert job_name(alone, varying([alone])) == "optimizer=sgd,train.epochs=3,seed=0"
