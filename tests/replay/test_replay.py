"""Replays of a recorded run: the same again, and each way in which it isn't."""

import contextlib
import json
import math
import os
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from helpers.at_night import each_in_one
from helpers.forked import python
from runner.config import conf
from runner.config.hydra_job import HydraJob
from runner.core import choose
from runner.core.choose import Choice
from runner.errors import TrainingStopped
from runner.job.run import run_job
from runner.record import checksums
from runner.record.conditions import changed
from runner.record.files import read_metrics
from runner.replay.__main__ import main
from runner.replay.rows import Differs, RecordEnds, Rows, relative
from runner.saved.record import read
from runner.saved.trusted import check_targets

pytestmark = pytest.mark.usefixtures("shared_session")
SHORT = [
    "data=linear_ae",
    "model=linear_autoencoder",
    "train.epochs=null",
    "train.steps=6",
    "train.log_every_steps=2",
    "train.eval_every_steps=4",
    "mesh=single",
    "wandb=disabled",
]


def record(folder: Path, folders: dict[str, Path], *more: str) -> None:
    """Train and record a run, as the command line does."""
    overrides = [*SHORT, f"compilation_cache={folders['xla']}", *more]
    folder.mkdir()
    conf.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides)
    run_job(cfg, HydraJob(folder, {}, overrides, None))


@pytest.fixture(scope="module")
def recorded(folders, tmp_path_factory):
    """A run folder, for tests to copy and never to change."""
    folder = tmp_path_factory.mktemp("replay") / "run"
    record(folder, folders)
    return folder


@pytest.fixture
def run(recorded, tmp_path):
    """A copy, without the checksums that would show what a test does to it."""
    ignored = shutil.ignore_patterns(checksums.FILE)
    return Path(shutil.copytree(recorded, tmp_path / "run", ignore=ignored))


def edit(run: Path, name: str, **values) -> None:
    """Set the values, by names with __ for dots, in one of `run`'s JSON files."""
    path = run / f"{name}.json"
    tree = json.loads(path.read_text())
    for key, value in values.items():
        *parents, last = key.split("__")
        node = tree
        for parent in parents:
            node = node[parent]
        node[last] = value
    path.write_text(json.dumps(tree))


@pytest.mark.smoke
def test_the_same_again(run, capsys):
    before = {path: path.read_bytes() for path in run.iterdir()}
    assert main([str(run)]) == 0
    told = capsys.readouterr()
    assert "optimizer=optax.adam" in told.out and "warning" not in told.out
    assert "Comparing bit for bit" in told.out
    assert told.out.endswith(
        f"Replayed 6 steps of {run}: all 4 logged rows equal bit for bit.\n"
    )
    assert "step 6/6" in told.err
    assert {path: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize(
    ("edits", "status", "said"),
    [
        (
            {"seed": 1},
            3,
            ["seed 0 -> 1",
             "before training: initial_parameters, data_order, first_batch.",
             "Not reproduced: ", "at step 1, train/"],
        ),
        (
            {"optimizer__learning_rate": 0.01, "schedule__value": 0.01},
            3,
            ["changed since: optimizer.learning_rate 0.001 -> 0.01, schedule.value",
             "at step 1, train/learning_rate was 0.0010000000474974513 and is 0.0099"],
        ),
        ({"optimizer__b1": 0.5}, 3, ["before training: optimizer_probe", "at step "]),
        ({"objective": "train/loss"}, 0, ["objective validation/loss -> train/loss"]),
    ],
)  # fmt: skip
def test_an_edited_config(run, capsys, edits, status, said):
    edit(run, "config", **edits)
    assert main([str(run)]) == status
    out = capsys.readouterr().out
    assert all(text in out for text in said), out


def test_a_learning_rate_that_trains_nothing_is_no_success(run, capsys):
    edit(run, "config", optimizer__learning_rate=0.01)
    assert main([str(run)]) == 1
    told = capsys.readouterr().err
    assert "schedule.value is 0.001, but optimizer.learning_rate, its source" in told
    assert main([str(run), "--allow-contradiction"]) == 0
    assert "optimizer.learning_rate 0.001 -> 0.01" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"trian": 1}, "has no key 'trian'"),
        ({"train__stepz": 1}, "train has no key 'stepz'"),
        ({"seed": "none"}, "seed must be a whole number"),
        ({"model___target_": "gone.model"}, "conf/ doesn't: gone.model. --config-dir"),
        ({"optimizer__beta": 1}, "optimizer.beta is not an argument of optax.adam"),
        ({"data__api_key": "<redacted>"}, "data.api_key is a secret"),
        ({"train__epochs": 2}, "train.steps is 6, but train.epochs=2 of"),
    ],
)
def test_a_config_that_cannot_run(run, capsys, edits, said):
    edit(run, "config", **edits)
    assert main([str(run)]) == 1
    assert said in capsys.readouterr().err


def test_data_that_is_not_there(run, tmp_path, capsys):
    path = run / "config.json"
    tree = json.loads(path.read_text())
    with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        data = conf.recorded(compose("config", ["data=mnist", "train.steps=1"]).data)
    tree["data"] = data | {"data_dir": str(tmp_path / "none"), "download": False}
    path.write_text(json.dumps(tree))
    assert main([str(run)]) == 1
    assert "mnist" in capsys.readouterr().err


def test_a_key_younger_than_the_record_has_its_default(run, capsys):
    tree = json.loads((run / "config.json").read_text())
    del tree["train"]["clip_global_norm"], tree["verify"]
    (run / "config.json").write_text(json.dumps(tree))
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "train.clip_global_norm null -> nothing, verify True -> nothing" in out
    del tree["hydra"]
    (run / "config.json").write_text(json.dumps(tree))
    assert main([str(run)]) == 1
    told = capsys.readouterr()
    assert "not compared with conf/: no overrides are recorded" in told.out
    assert "config.json has no train.clip_global_norm" in told.err


def test_other_versions_are_compared_within_the_tolerance(run, capsys):
    edit(run, "provenance", packages__jax="0.9.1", runner_git=None)
    rows = read_metrics(run / "metrics.jsonl")
    rows[1]["train/loss"] *= 1 + 1e-6
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^jax +0\.9\.1 +", out, re.MULTILINE)
    assert "within 1e-05 (relative): jax has changed." in out
    assert "largest relative difference is 1e-06 (train/loss at step 2)" in out
    assert main([str(run), "--tolerance", "1e-8"]) == 3
    edit(run, "provenance", packages__jax=version("jax"))
    assert main([str(run)]) == 3
    assert "at step 2, train/loss was" in capsys.readouterr().out
    assert main([str(run), "--allow-rounding"]) == 0
    assert "as --allow-rounding asks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fact", "name", "status"),
    [
        ("data_digest__validation__input", "data_digest.validation.input", 3),
        ("data_digest__files", "data_digest.files", 0),  # maybe the same, elsewhere
        ("first_batch", "first_batch", 3),
    ],
)
def test_other_data_are_named_though_no_row_differs(run, capsys, fact, name, status):
    edit(run, "provenance", **{fact: "other"})
    assert main([str(run)]) == status
    out = capsys.readouterr().out
    assert f"Different even before training: {name}.\n" in out
    assert (f"all rows are equal, but not {name}" in out) == (status == 3)


def test_code_and_environment_that_changed_are_shown(run, capsys):
    edit(run, "provenance", module_digests={"my_lab.model": "ab", __name__: "cd"})
    edit(run, "provenance", packages__pytest="1.0")
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert f"module_digests.{__name__}" in out and "packages.pytest" in out
    assert "my_lab" not in out and "Comparing bit for bit" in out
    edit(run, "provenance", environment__NVIDIA_TF32_OVERRIDE="0")
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "environment.NVIDIA_TF32_OVERRIDE has changed." in out


def test_a_record_without_the_newer_facts_is_replayed_bit_for_bit(run, capsys):
    path = run / "provenance.json"
    tree = json.loads(path.read_text())
    for name in (
        "data_digest",
        "first_batch",
        "environment",
        "module_digests",
        "runner_files",
    ):
        del tree[name]
    path.write_text(json.dumps(tree))
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "bit for bit" in out and "even before" not in out


def test_what_decides_between_bits_and_tolerance():
    then = {
        "packages": {"jax": "1", "wandb": "1"},
        "platform": "Linux-6.1-x86_64-with-glibc2.36",
        "runner_git": {"commit": "a" * 40, "dirty": True},
        "devices": ["cpu", "cpu"],
        "hostname": "a",
    }
    now = then | {
        "packages": {"jax": "1", "wandb": "2"},
        "platform": "Linux-6.9-x86_64-with-glibc2.41",
        "hostname": "b",
    }
    facts = changed(then, now)
    assert [f.name for f in facts] == ["runner", "wandb", "host"]
    assert not any(f.decides for f in facts)
    other = now | {"platform": "macOS-14.5-arm64-arm-64bit", "devices": ["cpu"]}
    facts = changed(then, other)
    assert [f for f in facts if f.decides] == [
        ("devices", "2 x cpu", "1 x cpu"),
        ("machine", "Linux x86_64", "macOS arm64"),
    ]
    assert all(f.recorded == "not recorded" for f in changed({}, now))


def test_more_devices_than_there_are(run, capsys):
    edit(run, "provenance", device_count=64, devices=["cpu"] * 64)
    assert main([str(run)]) == 1
    told = capsys.readouterr().err
    assert "had 64 x cpu devices, and there are 8 x cpu here" in told
    assert "JAX_NUM_CPU_DEVICES" in told


def test_all_devices_are_as_many_as_there_were(run, capsys):
    edit(run, "config", mesh__data=-1)
    assert main([str(run)]) == 0
    assert "mesh.data 1 -> -1" in capsys.readouterr().out


@pytest.mark.parametrize("status", ["running", "failed", None])
def test_a_run_that_was_cut_short(run, capsys, status):
    text = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(text[:2]) + text[2][:20])
    edit(run, "summary", status=status)
    if status is None:
        (run / "summary.json").unlink()
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "(cut short, 2 logged rows)" in out
    assert f"Replayed 2 of 6 steps of {run}: all 2 logged rows equal" in out


def test_a_finished_run_that_lost_rows(run, capsys):
    text = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(text[:3]))
    assert main([str(run)]) == 3
    assert "step 6 is logged now, but was not recorded" in capsys.readouterr().out


def test_a_run_that_stopped_at_a_nan_stops_there_again(folders, tmp_path, capsys):
    run = tmp_path / "run"
    with pytest.raises(TrainingStopped):
        record(run, folders, "optimizer.learning_rate=1e30", "verify=false")
    assert not math.isfinite(read_metrics(run / "metrics.jsonl")[-1]["train/loss"])
    capsys.readouterr()
    assert main([str(run), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "(cut short, 2 logged rows)" in told
    assert "all 2 logged rows equal bit for bit" in told
    again = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert not math.isfinite(again[-1]["train/loss"])


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "provenance.json"])
def test_a_missing_or_broken_file(run, capsys, name):
    path = run / name
    path.write_text("{torn\n")
    assert main([str(run)]) == 1
    assert name in capsys.readouterr().err
    path.write_text("[]\n")
    assert main([str(run)]) == 1
    path.unlink()
    assert main([str(run)]) == 1
    assert f"{path} can't be read: No such file" in capsys.readouterr().err


def test_no_run(run, tmp_path, capsys):
    for path, said in [
        (tmp_path / "gone", "doesn't exist"),
        (tmp_path, f"is not a run but has several; name one, such as {run}"),
        (run / "config.json", "not a .wandb file"),
    ]:
        assert main([str(path)]) == 1
        assert said in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main([str(empty)]) == 1
    assert "is not a run: it has no config.json" in capsys.readouterr().err
    (run / "metrics.jsonl").write_text("")
    assert main([str(run)]) == 1
    assert "no metrics to compare" in capsys.readouterr().err


def test_out_is_a_run_that_can_be_replayed(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(run), "--out", str(out)]) == 0
    assert json.loads((out / "summary.json").read_text())["status"] == "finished"
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["replay_of"] == str(run)
    assert main([str(out)]) == 0
    assert "warning" not in capsys.readouterr().out
    assert main([str(run), "--out", str(out)]) == 1
    assert "already has a run" in capsys.readouterr().err


def test_a_user_s_own_conf_is_found_again(run, tmp_path, capsys):
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nobjective: train/loss\n")
    overrides = json.loads((run / "config.json").read_text())["hydra"]["overrides"]
    edit(run, "config", hydra__overrides=[*overrides, "experiment=mine"])
    edit(run, "config", objective="train/loss")
    edit(run, "provenance", command=["runner", "--config-dir", "own"])
    edit(run, "provenance", folder=str(tmp_path))
    assert main([str(run)]) == 0
    assert "warning" not in capsys.readouterr().out
    shutil.rmtree(tmp_path / "own")
    assert main([str(run)]) == 0
    assert "not compared with conf/: experiment=mine is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("edits", "named"),
    [
        ({"model___target_": "os.system"}, "os.system"),
        ({"metrics": {"a": {"_target_": "helpers.evil.f"}}}, "helpers.evil.f"),
        ({"data__transforms": [{"_target_": "${seed}"}]}, "${seed}"),
        ({"data__name": "helpers.evil:Builder"}, "helpers.evil:Builder"),
    ],
)
def test_what_only_the_folder_names_is_not_imported(
    run, tmp_path, capsys, edits, named
):
    edit(run, "config", **edits)
    assert main([str(run)]) == 1
    assert f"names functions that conf/ doesn't: {named}" in capsys.readouterr().err
    own = tmp_path / "own"
    own.mkdir()
    key = "name" if ":" in named else "_target_"
    (own / "x.yaml").write_text(f'{key}: "{named}"\n')
    if "$" not in named:
        check_targets(read(run), [own], "")


def test_a_trusted_folder_is_imported(run, capsys):
    edit(run, "config", model___target_="gone.model")
    assert main([str(run), "--trust"]) == 1
    assert "gone.model can't be loaded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda run: _replaced(run / "config.json", os.mkfifo), "not a regular file"),
        (lambda run: _replaced(run / "metrics.jsonl", os.mkfifo), "not a regular file"),
        (lambda run: (run / "config.json").write_text("[" * 10**4), "64 levels"),
        (lambda run: os.truncate(run / "metrics.jsonl", 300 << 20), "at most 256 MiB"),
        (lambda run: (run / "metrics.jsonl").write_text("\x1b[2J\n"), "not a JSON obj"),
        (lambda run: edit(run, "config", hydra__overrides=[3]), "no list of text"),
        (lambda run: edit(run, "config", trian="\x1b[2J"), "has no key"),
    ],
)
def test_a_hostile_folder_is_named(run, capsys, spoil, told):
    spoil(run)
    assert main([str(run)]) == 1
    shown = capsys.readouterr()
    assert told in shown.err and str(run) in shown.err
    assert "\x1b" not in shown.out + shown.err


def _replaced(path: Path, make) -> None:
    path.unlink()
    make(path)


def test_rows():
    nan = float("nan")
    old = [{"step": 1, "a": nan}, {"step": 2, "a": 0.0}]
    rows = Rows(old, True, None)
    rows.compare({"step": 1, "a": nan, "time/x": 3})
    with pytest.raises(Differs, match=r"step 2, a was 0\.0 and is -0\.0"):
        rows.compare({"step": 2, "a": -0.0})
    with pytest.raises(Differs, match="step 2 was recorded, but is not logged now"):
        rows.end()
    rows = Rows(old, False, 0.1)
    with pytest.raises(Differs, match=r"a was nan and is not logged\. Also.*: b"):
        rows.compare({"step": 1, "b": 1.0})
    with pytest.raises(Differs, match="step was 1 and is 2"):
        rows.compare({"step": 2, "a": nan})
    rows.compare({"step": 1, "a": nan})
    with pytest.raises(RecordEnds):
        rows.compare({"step": 2, "a": 0.0})
    assert relative(1.0, 0.9) == pytest.approx(0.1)
    assert relative(nan, 1.0) == relative(float("inf"), 1.0) == float("inf")
    assert relative(nan, nan) == relative(float("inf"), float("inf")) == 0


def test_from_the_command_line_with_a_wandb_file(folders, tmp_path, capsys):
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    env |= {"TFDS_DATA_DIR": str(folders["data"])}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return python("-m", *arguments, cwd=tmp_path, env=env)

    done = run(
        "runner", "train.steps=50", "mesh=single", "hydra.run.dir=run",
        "schedule=warmup_cosine", "seed=3", "verify=false",
        f"compilation_cache={folders['xla']}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run("runner.replay", "run")
    assert done.returncode == 0, done.stderr
    verdict = "Replayed 50 steps of run: all 8 logged rows equal bit for bit.\n"
    assert done.stdout.endswith(verdict)
    assert "warning" not in done.stdout
    # The mirror has it all, even in a process with more devices.
    assert main([str(tmp_path / "run" / "wandb")]) == 0
    assert "all 8 logged rows equal bit for bit" in capsys.readouterr().out
    (tmp_path / "run" / checksums.FILE).unlink()
    edit(tmp_path / "run", "config", seed=4)
    assert main([str(tmp_path / "run")]) == 3
    assert "/run: at step 1, train/" in capsys.readouterr().out


@pytest.mark.parametrize(
    "asked,form", each_in_one(["auto", "itself"], ["patches", "native"])
)
def test_a_convolution_is_replayed_in_its_recorded_form(
    asked, form, folders, tmp_path, capsys, monkeypatch
):
    small = "data=digits", "model=cnn", "model.channels=[4]", "train.steps=2"
    own = () if asked == "auto" else (f"train.convolution={form}",)
    chosen = Choice(form, 1, "table", {})
    with monkeypatch.context() as patch:
        patch.setattr(choose, "by_table", lambda *_: chosen)
        record(tmp_path / "run", folders, *small, *own)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["train"]["convolution"] == form
    assert main([str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "bit for bit" in out and "warning" not in out


@pytest.mark.parametrize(("tolerance", "equal"), [(None, False), (0.1, True)])
def test_a_probe_counts_where_all_bits_do(tolerance, equal):
    old, new = ({"step": 1, "probe/h/counts": [n, 2.0]} for n in (1.0, 3.0))
    rows = Rows([old], True, tolerance)
    with (
        contextlib.nullcontext() if equal else pytest.raises(Differs, match="h/counts")
    ):
        rows.compare(new)
    with pytest.raises(Differs, match="not logged"):
        Rows([old], True, tolerance).compare({"step": 1})
