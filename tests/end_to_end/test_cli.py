"""The command line as a person uses it, in processes; few, since each costs seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.at_night import one_in
from helpers.forked import python
from helpers.wandb_run import wandb_run
from runner.config.conf import conf_dir
from runner.config.hydra_job import HydraJob
from runner.errors import ConfigError
from runner.job.run import run_job
from runner.record.files import read_metrics
from runner.record.mirrors.wandb_reader import read_run, wandb_files

SHORT = [
    "train.steps=4",
    "train.eval_every_steps=4",
    "data=linear_ae",
    "model=linear_autoencoder",
    "mesh=single",
    "verify=false",
]


@pytest.fixture
def run(folders, tmp_path):
    """Run `python -m runner` in `tmp_path` with W&B as the defaults have it."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        env["PYTHONPATH"] = str(Path(__file__).parents[1])
        env["TFDS_DATA_DIR"] = str(folders["data"])
        given = [a.split("=")[0] for a in arguments]
        cache = [f"compilation_cache={folders['xla']}"]
        plain = "compilation_cache" in given or "--help" in given
        command = ["-m", "runner", *arguments, *([] if plain else cache)]
        return python(*command, cwd=tmp_path, env=env)

    return run


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_importing_runner_imports_nothing_but_it():
    code = (
        "import sys; before = {*sys.modules}; import runner; "
        "new = {name.partition('.')[0] for name in {*sys.modules} - before}; "
        "print(*new - {*sys.stdlib_module_names})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["runner"], (
        "what it needs is imported when it is used"
    )


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--help"], ["optimizer: acprop, ", "--cfg job", "python -m runner -m"]),
        (["--cfg", "job"], ["_target_: optax.adam", "learning_rate: 0.001"]),
    ],
)
def test_help_and_the_config_import_nothing_heavy(arguments, shown):
    code = (
        "import atexit, sys; from runner.cli import main; "
        "heavy = ('jax', 'numpy', 'flax', 'optax', 'wandb', 'rich', 'polars'); "
        "tell = lambda: print([m for m in heavy if m in sys.modules], file=sys.stderr);"
        "atexit.register(tell); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == "[]\n"
    assert all(text in done.stdout for text in shown)


@pytest.mark.parametrize("sweep", one_in(2, [["-m", "seed=0,1"], []]))
def test_a_file_of_a_shipped_name_is_refused_and_of_another_used(run, tmp_path, sweep):
    group = tmp_path / "own" / "optimizer"
    group.mkdir(parents=True)
    text = (conf_dir() / "optimizer" / "adam.yaml").read_text()
    (group / "adam.yaml").write_text(text)
    own = ["--config-dir=own", *sweep, *SHORT, "wandb=disabled", "framework=jax"]
    done = run(*own)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"error: Hydra would ignore {group / 'adam.yaml'}: ")
    assert done.stderr.endswith("choose it with optimizer=my_adam\n")
    assert done.stderr.count("\n") == 1
    (group / "adam.yaml").rename(group / "my_adam.yaml")
    done = run(*own, "optimizer=my_adam")
    assert done.returncode == 0, done.stderr


def test_a_mistake_costs_one_message_and_nothing_is_started(run, tmp_path):
    cache = tmp_path / "cache"
    done = run("optimizer.b1=abc", "hydra.run.dir=out", f"compilation_cache={cache}")
    assert done.returncode == 1
    assert done.stderr == "error: optimizer.b1=abc must be a number\n"
    assert done.stdout == ""
    assert summary(tmp_path / "out") == {
        "status": "failed",
        "error": "ConfigError: optimizer.b1=abc must be a number",
    }
    assert not list(cache.iterdir()) and not wandb_files(tmp_path)


@pytest.mark.parametrize("asked, code", [("config", 0), ("weights", 1)])
def test_what_is_only_printed_leaves_nothing(run, tmp_path, asked, code):
    (tmp_path / "outputs").mkdir()
    notes = tmp_path / "outputs" / "notes.txt"
    notes.write_text("mine")
    done = run(f"print={asked}")
    assert done.returncode == code, done.stderr
    assert [*tmp_path.rglob("*")] == [notes.parent, notes]


def test_a_mistake_leaves_an_earlier_run_in_its_folder_alone(
    composed, folders, tmp_path
):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "summary.json").write_text('{"status": "finished"}')
    cfg = composed("seed=-1", f"compilation_cache={folders['xla']}")
    with pytest.raises(ConfigError, match="seed=-1"):
        run_job(cfg, HydraJob(tmp_path, {}, [], None))
    assert summary(tmp_path) == {"status": "finished"}


def test_a_tracker_that_cannot_be_begun_leaves_its_error_in_the_folder(run, tmp_path):
    done = run(*SHORT, "wandb.mode=${oc.env:NOT_THERE}", "hydra.run.dir=one")
    assert done.returncode == 1 and "error: wandb.mode: " in done.stderr
    assert summary(tmp_path / "one")["status"] == "failed"


def test_a_users_own_error_has_its_traceback(run, tmp_path):
    done = run(
        "model._target_=helpers.user_targets.raises",
        *("~model.hidden_sizes", "~model.activation", "~model.dropout"),
        "hydra.run.dir=out",
    )
    assert done.returncode == 1
    assert 'raise ValueError("mine to see")' in done.stderr
    assert "error: ValueError: mine to see (" in done.stderr
    assert summary(tmp_path / "out")["status"] == "failed"
    assert "mine to see" in (tmp_path / "out" / "error.txt").read_text()


def test_a_loss_that_is_nan_stops_the_run_and_keeps_its_rows(run, tmp_path):
    done = run(
        *SHORT,
        *("optimizer=sgd", "optimizer.learning_rate=1e30", "train.log_every_steps=1"),
        "hydra.run.dir=out",
    )
    out = tmp_path / "out"
    assert done.returncode == 1 and "Traceback" not in done.stderr
    rows = read_metrics(out / "metrics.jsonl")
    step = rows[-1]["step"]
    assert [row["step"] for row in rows] == list(range(1, step + 1)) and step < 4
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: train/loss is ") and f"at step {step}" in last
    assert summary(out)["status"] == "failed" and summary(out)["steps"] == step
    (file,) = wandb_files(tmp_path)
    assert read_run(file)["exit_code"] == 1


def test_a_loss_that_is_nan_may_go_on(run, tmp_path):
    done = run(
        *SHORT,
        *("optimizer=sgd", "optimizer.learning_rate=1e30", "train.on_nan=continue"),
        *("hydra.run.dir=out", "wandb=disabled"),
    )
    assert done.returncode == 0
    assert summary(tmp_path / "out")["status"] == "finished"
    assert summary(tmp_path / "out")["steps"] == 4
    assert "[INFO]" not in done.stderr and not wandb_files(tmp_path)


def test_a_sweep_leaves_a_folder_and_a_wandb_run_that_say_what_ran(
    run, tmp_path, monkeypatch
):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    done = run(
        *("-m", "optimizer=sgd,adam", "framework=jax,linen"),
        *(*SHORT, "debug=overfit", "wandb=offline", "hydra.sweep.dir=sweep"),
    )
    assert done.returncode == 0, done.stderr
    expected = [(o, f) for o in ("sgd", "adam") for f in ("jax", "linen")]
    for optimizer, framework in expected:
        folder = tmp_path / "sweep" / f"optimizer={optimizer},framework={framework}"
        recorded = json.loads((folder / "config.json").read_text())
        (file,) = wandb_files(folder)
        stored = wandb_run(file)
        for config in (recorded, stored["config"]):
            assert config["optimizer"]["_target_"] == f"optax.{optimizer}"
            assert (
                config["framework"]["_target_"]
                == f"runner.frameworks.{framework}.pipeline"
            )
            choices = config["hydra"]["choices"]
            assert choices["optimizer"] == optimizer
            assert choices["framework"] == framework
            assert choices["debug"] == "overfit" and choices["experiment"] is None
            assert f"optimizer={optimizer}" in config["hydra"]["overrides"]
            assert config["train"]["steps"] == 4
        assert stored["group"] == "sweep" and stored["exit_code"] == 0
        assert f"framework={framework}" in stored["tags"]
        assert [row["step"] for row in stored["history"]] == [1, 4]
        assert summary(folder)["status"] == "finished"
    # W&B made folders there for media and artifacts, and left them.
    assert not [path for path in temporary.glob("tmp*") if path.is_dir()]


def test_the_other_jobs_of_a_sweep_run_when_one_fails(run, tmp_path):
    done = run(
        *("-m", "optimizer.learning_rate=0.1,nonsense,0.2"),
        *(*SHORT, "wandb=disabled", "hydra.sweep.dir=sweep"),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    folders = [
        tmp_path / "sweep" / f"optimizer.learning_rate={rate}"
        for rate in ("0.1", "nonsense", "0.2")
    ]
    statuses = [summary(folder)["status"] for folder in folders]
    assert statuses == ["finished", "failed", "finished"]
    lines = done.stderr.splitlines()
    rule = "optimizer.learning_rate=nonsense must be a number"
    told = lines.index(f"job optimizer.learning_rate=nonsense failed: {rule}")
    assert any(line.startswith("sweep 2/3 done, 1 failed") for line in lines[told:])
    assert lines[-1] == f"error: {rule}"


@pytest.mark.smoke
def test_interpolations_in_overrides_are_recorded_as_they_were_typed(run, tmp_path):
    override = "wandb.notes=${oc.env:HOME}"
    done = run(*SHORT, override, "hydra.run.dir=out", "wandb=disabled", "train.steps=1")
    assert done.returncode == 0, done.stderr
    recorded = json.loads((tmp_path / "out" / "config.json").read_text())
    assert override in recorded["hydra"]["overrides"]
    assert recorded["wandb"]["notes"] == "${oc.env:HOME}"
