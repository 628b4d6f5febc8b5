"""Sweeps whose jobs are packed into populations: the same results, few programs."""

import json
from pathlib import Path

import pytest

from helpers.at_night import one_in
from helpers.swept import command, here, main, rows, run, states, summary
from runner.job import session
from runner.sweep.status import Status

__all__ = ["command", "here", "main", "run"]  # fixtures


@pytest.mark.usefixtures("users_initial_values")
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
