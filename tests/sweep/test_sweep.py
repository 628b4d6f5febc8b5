"""`python -m runner -m`, as a person runs it: folders, fates, kills and the ledger."""

import contextlib
import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl import logging as absl_logging

from helpers.at_night import one_in
from helpers.forked import python
from helpers.full import small_disk
from runner import cli
from runner.job import session
from runner.record import checksums
from runner.record.files import read_metrics
from runner.sweep.status import Status

TINY = (
    "debug=tiny", "framework=jax", "model.hidden_sizes=[8]", "mesh=single",
    "verify=false",
)  # fmt: skip


@pytest.fixture
def command(folders):
    """The arguments of `python` for a sweep, into a folder if one is named."""

    def command(*arguments: str, folder: str | None = "sweep") -> list[str]:
        into = [f"hydra.sweep.dir={folder}"] if folder else []
        return [
            "-m", "runner", "-m", *arguments, *TINY, *into,
            f"data.data_dir={folders['data']}", f"compilation_cache={folders['xla']}",
        ]  # fmt: skip

    return command


@pytest.fixture
def start(command, tmp_path):
    """Start the program in a folder of its own."""

    def start(*arguments: str, **options) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *command(*arguments, **options)],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return start


@pytest.fixture
def run(command, tmp_path):
    """Run the program to its end: exit status and what it said."""

    def run(*arguments: str, **options) -> tuple[int, str]:
        done = python(*command(*arguments, **options), cwd=tmp_path, env=os.environ)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def main(folders, tmp_path, monkeypatch):
    """The program in this process, with no program compiled so far."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which main changes
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def main(*arguments: str, folder: str = ".") -> None:
        monkeypatch.setattr(
            "sys.argv",
            ["runner", "-m", *TINY, f"hydra.sweep.dir={tmp_path / folder}", *arguments,
             f"data.data_dir={folders['data']}", f"compilation_cache={folders['xla']}"],
        )  # fmt: skip
        cli.main()

    yield main
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def here(main, monkeypatch):
    """As `run`, but in this process, which needs no seconds to start."""
    # When Hydra configures logging, absl closes the stderr that it began with.
    monkeypatch.setattr(absl_logging.PythonHandler, "close", logging.Handler.close)

    def here(*arguments: str, folder: str = "sweep") -> tuple[int, str]:
        said, status = io.StringIO(), 0
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                main(*arguments, folder=folder)
            except SystemExit as ended:
                status = 1
                said.write(str(ended.code))
        return status, said.getvalue()

    return here


def ledger(folder: Path) -> dict[str, dict]:
    """The jobs of a sweep.json, by name."""
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"].values()
    return {job["name"]: job for job in jobs}


def states(folder: Path) -> dict[str, int]:
    found = [job["state"] for job in ledger(folder).values()]
    return {state: found.count(state) for state in set(found)}


def rows(folder: Path) -> dict[str, list[dict]]:
    """The metrics of every job, without the timings."""
    found = {}
    for path in folder.glob("*/metrics.jsonl"):
        found[path.parent.name] = read_metrics(path)
        for row in found[path.parent.name]:
            del row["time/steps_per_second"]
    return found


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_each_job_has_its_own_folder_and_fate(run, tmp_path):
    # A negative rate is refused when the job is built, a NaN comes while it trains.
    status, said = run("optimizer=sgd,adam", "optimizer.learning_rate=0.1,1e30,-1")
    sweep = tmp_path / "sweep"
    assert status == 1
    assert states(sweep) == {"failed": 4, "done": 2}, said
    name = "optimizer=sgd,optimizer.learning_rate=-1"
    assert f"job {name} failed: the schedule's learning rate is -1.0" in said
    assert (
        "job optimizer=sgd,optimizer.learning_rate=1e+30 failed: train/loss is" in said
    )
    good = sweep / "optimizer=adam,optimizer.learning_rate=0.1"
    for file in ("config.json", "provenance.json", "runner.log", ".hydra/config.yaml",
                 ".hydra/hydra.yaml", ".hydra/overrides.yaml"):  # fmt: skip
        assert (good / file).is_file(), file
    assert summary(good)["status"] == "finished"
    assert summary(sweep / name)["status"] == "failed"
    config = json.loads((good / "config.json").read_text())
    assert config["optimizer"]["_target_"] == "optax.adam"
    assert config["hydra"]["choices"]["optimizer"] == "adam"
    assert (
        ledger(sweep)[good.name]["result"] == summary(good)["final"]["validation/loss"]
    )
    # At the end, the best settings, what failed, and where to go on.
    assert "4 of 6 jobs failed" in said
    assert "python -m runner.compare sweep --by optimizer" in said


def test_packed_equals_one_after_the_other(here, run, tmp_path):
    different = ("seed=0,1", "schedule=constant,cosine", "optimizer=adam,sgd")
    for strategy, folder in (("vmap", "packed"), ("loop", "turns")):
        status, said = here(
            *different, f"hydra.launcher.strategy={strategy}", folder=folder
        )
        assert status == 0, said
    status, said = run(*different, "hydra/launcher=basic", folder="basic")
    assert status == 0, said
    basic = {name: r for name, r in zip(
        sorted(rows(tmp_path / "turns")), rows_of_basic(tmp_path / "basic"), strict=True
    )}  # fmt: skip
    turns, packed = rows(tmp_path / "turns"), rows(tmp_path / "packed")
    assert len(turns) == 8 and turns == basic  # bit for bit
    for name, own in packed.items():
        for row, other in zip(own, turns[name], strict=True):
            assert row == pytest.approx(other, rel=1e-4, abs=1e-6)
    provenance = [
        json.loads(path.read_text())["members"]
        for path in (tmp_path / "packed").glob("*/provenance.json")
    ]
    assert provenance == [4] * 8


def rows_of_basic(folder: Path) -> list[list[dict]]:
    """In the order of the names that a packed sweep gives its jobs."""

    def name(path):
        overrides = json.loads((path / "config.json").read_text())["hydra"]["overrides"]
        keys = ("seed", "schedule", "optimizer")
        return ",".join(o for key in keys for o in overrides if o.startswith(f"{key}="))

    found = {
        name(path.parent): path.parent.name for path in folder.glob("*/config.json")
    }
    every = rows(folder)
    return [every[found[key]] for key in sorted(found)]


def test_the_same_command_skips_what_is_done_and_retries_what_failed(here, tmp_path):
    assert here("optimizer=sgd", "seed=0,1,2")[0] == 0
    before = {
        path: path.stat().st_mtime_ns for path in tmp_path.glob("sweep/*/metrics.jsonl")
    }
    status, said = here("optimizer=sgd", "seed=0,1,2")
    assert status == 0, said
    status, said = here("optimizer=sgd", "seed=1,2,3")  # a grid that grew
    assert status == 0, said
    after = {
        path: path.stat().st_mtime_ns for path in tmp_path.glob("sweep/*/metrics.jsonl")
    }
    assert len(after) == 4 and before.items() <= after.items()
    # A failed one is tried again.
    failed = tmp_path / "sweep" / "seed=0" / "summary.json"
    text = failed.read_text().replace('"finished"', '"failed"')
    failed.write_text(text)
    (failed.parent / checksums.FILE).unlink()
    status, said = here("optimizer=sgd", "seed=0,1,2")
    assert status == 0 and summary(failed.parent)["status"] == "finished"
    assert states(tmp_path / "sweep") == {"done": 4}


def test_another_base_is_refused_and_named(here, tmp_path):
    assert here("seed=0,1")[0] == 0
    status, said = here("seed=0,1", "data.batch_size=8")
    assert status == 1 and "data.batch_size=16, now 8" in said
    assert "hydra.sweep.dir" in said
    # W&B changes no result.
    assert here("seed=0,1", "wandb.tags=[again]")[0] == 0


def test_what_cant_be_composed_starts_nothing(here, tmp_path):
    status, said = here("seed=0,1", "optimizer.lerning_rate=0.1")
    assert status == 1 and "Did you mean 'learning_rate'?" in said
    assert not list(tmp_path.glob("sweep/*/"))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("hydra.launcher.strategy=vmpa", "Did you mean 'vmap'?"),
        ("hydra.launcher.max_members=0", "at least 1"),
    ],
)
def test_mistakes_in_the_launchers_own_keys(here, override, told):
    status, said = here("seed=0,1", override)
    assert status == 1 and told in said and "Traceback" not in said


def test_a_bug_in_a_job_shows_its_traceback_when_it_happens(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from runner.models.mlp import mlp\n"
        "def broken(*, inputs, output, dtype, hidden_sizes, width):\n"
        "    return mlp(inputs=inputs, output=output, dtype=dtype,\n"
        "               hidden_sizes=[width // (width - 4)], activation='relu',\n"
        "               dropout=0.0)\n"
    )
    model = tmp_path / "conf" / "model"
    model.mkdir(parents=True)
    (model / "broken.yaml").write_text(
        "_target_: mine.broken\nwidth: 8\nhidden_sizes: []\n"
    )
    status, said = run("--config-dir", "conf", "model=broken", "model.width=4,8")
    assert status == 1 and "ZeroDivisionError" in said and "in broken" in said
    assert states(tmp_path / "sweep") == {"failed": 1, "done": 1}
    error = (tmp_path / "sweep" / "model.width=4" / "error.txt").read_text()
    assert "ZeroDivisionError" in error


@pytest.mark.nightly  # test_population_checkpoints.py kills each way once
@pytest.mark.parametrize("strategy", ["loop", "vmap"])
def test_killed_at_random_moments_the_sweep_ends_with_the_same_results(
    strategy, run, start, tmp_path
):
    arguments = (
        "seed=0,1,2,3,4,5", "optimizer=sgd,adam", "train.steps=200",
        f"hydra.launcher.strategy={strategy}",
    )  # fmt: skip
    status, said = run(*arguments, folder="undisturbed")
    assert status == 0, said
    rng = random.Random(0)
    finished: dict[str, int] = {}
    for _ in range(5):
        process = start(*arguments)
        # From before anything is there to when some jobs are done.
        deadline = time.monotonic() + rng.uniform(2, 9)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for path in tmp_path.glob("sweep/*/summary.json"):
            if summary(path.parent)["status"] == "finished":
                finished.setdefault(path.parent.name, path.stat().st_mtime_ns)
    status, said = run(*arguments)
    assert status == 0, said
    assert states(tmp_path / "sweep") == {"done": 12}
    for name, when in finished.items():  # none ran twice to its end
        assert (tmp_path / "sweep" / name / "summary.json").stat().st_mtime_ns == when
    wanted, found = rows(tmp_path / "undisturbed"), rows(tmp_path / "sweep")
    if strategy == "loop":
        assert found == wanted
    for name, own in found.items():
        for row, other in zip(own, wanted[name], strict=True):
            assert row == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_ctrl_c_leaves_a_sweep_that_goes_on(start, run, tmp_path):
    arguments = ("seed=0,1,2", "train.steps=200000", "hydra.launcher.strategy=loop")
    process = start(*arguments)
    metrics = tmp_path / "sweep" / "seed=0" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues sweep" in said
    assert summary(metrics.parent)["status"] == "preempted"
    assert states(tmp_path / "sweep") == {"pending": 3}


@pytest.mark.nightly
def test_a_full_disk(here, tmp_path):
    """Each job says what can't be written and what is safe, and so does the sweep."""
    with small_disk(tmp_path / "disk", kib=300) as disk:
        sizes = ("train.epochs=null", "train.steps=2000", "train.log_every_steps=1")
        saved = ("checkpoint.every_steps=50", "checkpoint.keep=9")
        asked = (*sizes, *saved, "seed=0,1", "hydra.launcher.strategy=vmap")
        status, said = here(*asked, folder="disk/sweep")
        assert status and "No space left on device. Its rows up to step" in said, said
        assert "None" not in said and "Traceback" not in said
        failed = [summary(path.parent) for path in disk.glob("*/*/summary.json")]
        assert [found["status"] for found in failed] == ["failed", "failed"]


def test_the_same_command_without_a_folder_continues_the_unfinished_sweep(
    run, tmp_path
):
    assert run("seed=0,1", folder=None)[0] == 0
    (path,) = tmp_path.glob("multirun/*/*/sweep.json")
    found = json.loads(path.read_text())
    key = next(iter(found["jobs"]))
    found["jobs"][key]["state"] = "running"  # as a kill leaves it
    folder = path.parent / found["jobs"][key]["folder"]
    text = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(text.replace('"finished"', '"running"'))
    (folder / checksums.FILE).unlink()
    path.write_text(json.dumps(found))
    status, said = run("seed=0,1", "data.batch_size=8", folder=None)
    assert status == 0 and "continuing" not in said  # another one
    status, said = run("seed=0,1", folder=None)
    assert status == 0 and "continuing the unfinished sweep in" in said
    assert summary(folder)["status"] == "finished"
    assert len(list(tmp_path.glob("multirun/*/*"))) == 2
    status, said = run("seed=0,1", folder=None)  # nothing is unfinished any more
    assert status == 0 and "continuing" not in said
    assert len(list(tmp_path.glob("multirun/*/*"))) == 3


def test_two_processes_dont_work_on_one_sweep(start, run, tmp_path):
    first = start("seed=0,1", "train.steps=100000000", "hydra.launcher.strategy=loop")
    while not (tmp_path / "sweep" / "sweep.json").exists():
        time.sleep(0.05)
        assert first.poll() is None, first.communicate()
    status, said = run("seed=0,1", "train.steps=100000000")
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert status == 1 and "another process is running the sweep" in said


def test_a_program_that_cant_be_compiled_fails_its_own_jobs_alone(
    main, tmp_path, monkeypatch
):
    def compile_one(spec, *arguments):
        if "sgd" in str(spec.description["optimizer"]):
            raise RuntimeError("XLA: out of memory")
        return compile_program(spec, *arguments)

    compile_program = session.compile_program
    monkeypatch.setattr(session, "compile_program", compile_one)
    said: list[str] = []  # each with its traceback, when it happens
    monkeypatch.setattr(Status, "say", lambda _, text: said.append(text))
    with pytest.raises(SystemExit) as ended:
        main("optimizer=sgd,adam", "seed=0,1")
    assert ended.value.code == "error: RuntimeError: XLA: out of memory"
    assert states(tmp_path) == {"failed": 2, "done": 2}
    folder = tmp_path / "optimizer=sgd,seed=1"
    assert summary(folder)["error"] == "RuntimeError: XLA: out of memory"
    assert "in compile_one" in (folder / "error.txt").read_text()
    assert sum("in compile_one" in text for text in said) == 2


@pytest.fixture
def made(monkeypatch):
    """The members of the populations whose programs are compiled."""
    made = []

    def counted(spec, values, timetable, members, keep):
        made.append(members)
        return compile_program(spec, values, timetable, members, keep)

    compile_program = session.compile_program
    monkeypatch.setattr(session, "compile_program", counted)
    return made


@pytest.mark.parametrize("strategy", ["vmap", "loop"])
def test_an_id_for_one_wandb_run_is_no_jobs(main, tmp_path, monkeypatch, strategy):
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    main("seed=0,1", f"hydra.launcher.strategy={strategy}")
    records = [json.loads(p.read_text()) for p in tmp_path.glob("*/provenance.json")]
    assert len({record["wandb_id"] for record in records} - {"abc"}) == 2


def test_the_last_population_is_filled_up_rather_than_compiled_anew(
    main, made, tmp_path
):
    main("seed=range(5)", "hydra.launcher.max_members=2")
    assert made == [2]
    assert states(tmp_path) == {"done": 5}


def test_members_that_stop_leave_and_the_rest_go_on_in_a_smaller_population(
    main, made, tmp_path
):
    asked = (
        "optimizer=adam", "optimizer.learning_rate=0.03,0.02,0.01,1e-5",
        "train.steps=60", "train.epochs=null", "train.eval_every_steps=4",
        "train.stop.value=1.5",
        "checkpoint.best=true",
    )  # fmt: skip
    main(*asked, "hydra.launcher.strategy=vmap", folder="packed")
    assert made == [4, 2, 1]
    main(*asked, "hydra.launcher.strategy=loop", folder="loop")
    packed, loop = rows(tmp_path / "packed"), rows(tmp_path / "loop")
    ends = {name: own[-1]["step"] for name, own in packed.items()}
    assert ends == {name: own[-1]["step"] for name, own in loop.items()}
    assert len(set(ends.values())) == 4 and max(ends.values()) == 60
    for name, own in packed.items():
        for row, other in zip(own, loop[name], strict=True):
            assert row == pytest.approx(other, rel=1e-3)
        found, other = (summary(tmp_path / s / name) for s in ("packed", "loop"))
        assert found.get("stopped") == other.get("stopped")
        assert found["flops_per_step"] == other["flops_per_step"] > 0
        assert (found.get("stopped") is None) == (ends[name] == 60)
        assert found["final"]["test/loss"] == pytest.approx(
            other["final"]["test/loss"], rel=1e-3
        )
        best = tmp_path / "packed" / name / "checkpoints"
        assert (best / str(found["best"]["validation/loss"]["step"])).is_dir()


SCHEDULES = "constant,cosine", "constant,cosine,linear,exponential,warmup_cosine"


@pytest.mark.parametrize("schedules", one_in(2, SCHEDULES))
def test_two_optimizers_three_frameworks_schedules_and_seeds_are_six_programs(
    main, made, tmp_path, schedules
):
    """The jobs differ in numbers, but for the optimizer and the framework."""
    main(
        "optimizer=sgd,adam", "framework=jax,linen,nnx", f"schedule={schedules}",
        "seed=0,1",
    )  # fmt: skip
    assert made == [4] * 6  # the fastest size for so small a model
    jobs = 2 * 3 * len(schedules.split(",")) * 2
    assert len(rows(tmp_path)) == jobs
    assert states(tmp_path) == {"done": jobs}
