"""Chooses between ways to train runs of one program that round differently."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from runner.core import choose
from runner.core.choose import FORMS, Choice, Times
from runner.core.convolution import has_convolution
from runner.core.measure import microseconds
from runner.core.mesh import population_size
from runner.core.program import Program
from runner.core.run import Run
from runner.core.shapes import step_jaxpr
from runner.errors import ConfigError
from runner.job.memory import free_bytes
from runner.job.session import Session
from runner.record.files import read_object, write_json, writing
from runner.settings import TrainSettings

# Sizes of populations that `train.choose=measure` times, if there are as many members.
SIZES = (1, 8, 32, 128)
# The share of free memory for the state of a population and what its step needs.
MEMORY_SHARE = 0.5


def chosen(
    settings: TrainSettings, most: int, made: Callable[[str], Run], session: Session
) -> Choice:
    """Choose for runs of one program, or return what was chosen for it before.

    Args:
      settings: the `train` section.
      most: how many of them may train side by side.
      made: the run with one of FORMS.
      session: keeps the choice; so does the folder of its sweep.
    """
    asked, by = settings.convolution, settings.choose
    forms = FORMS if asked == "auto" else (asked,)
    if most == 1 and len(forms) == 1:
        return choose.given(asked)
    native = made("native")
    spec = native.spec
    if spec.dataset.mode != "device" or spec.steps_per_call == 1:
        most = 1  # the host would have to make a batch for every member
    return session.keep(
        ("choice", spec.key, forms, by, most),
        lambda: _choose(native, forms, by, most, made, session),
    )


def _choose(
    native: Run,
    forms: Sequence[str],
    by: str,
    most: int,
    made: Callable[[str], Run],
    session: Session,
) -> Choice:
    jaxpr = step_jaxpr(native.spec, native.values)
    if not has_convolution(jaxpr):
        forms = forms[:1]
    if most == 1 and len(forms) == 1:
        return choose.given(forms[0])
    path = session.folder and session.folder / "choices" / f"{native.spec.key}.json"
    if path and path.exists():
        return _again(path, forms, most)
    if by == "table":
        device = jax.devices()[0]
        kind = device.platform, device.device_kind
        choice = choose.by_table(jaxpr, *kind, forms, most)
    else:
        times = _measured([made(form) for form in forms], forms, most, session)
        choice = choose.best(times, forms, most, "measurement")
    if path and (by == "measure" or len(forms) > 1):
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, choice._asdict())
    return choice


def _again(path: Path, forms: Sequence[str], most: int) -> Choice:
    """What a sweep has chosen before, when it may have had more jobs.

    Raises:
      ConfigError: the file is damaged.
    """
    found = read_object(path)
    try:
        times = {
            form: {int(size): float(time) for size, time in of.items()}
            for form, of in found["microseconds"].items()
        }
        form, by, members = found["convolution"], found["by"], found["members"]
        if form not in FORMS or type(members) is not int or members < 1:
            raise ValueError("it is of another shape")
        forms = [form] if form in forms else forms
        if not times:
            return Choice(forms[0], min(most, members), by, {})
        return choose.best(times, forms, most, by)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} can't be read as what the sweep has chosen: "
            f"{type(error).__name__}: {error}. Bring it back, or set hydra.sweep.dir "
            "to another folder"
        ) from error


def _measured(
    runs: Sequence[Run], forms: Sequence[str], most: int, session: Session
) -> Times:
    """The times of these runs, each in one of the `forms`, by measurement."""
    ways: dict[tuple[str, int], tuple[Program, Run]] = {}
    asked = sorted({1, *(size for size in SIZES if size <= most), min(most, SIZES[-1])})
    for form, run in zip(forms, runs, strict=True):
        for size in asked:
            members = population_size(run.spec.mesh.devices, size) if size > 1 else None
            program = session.program(run.spec, run.values, run.timetable, members)
            ways[form, size] = program, run
    free = MEMORY_SHARE * free_bytes()
    # A run alone has to fit in any case.
    ways = {way: m for way, m in ways.items() if way[1] == 1 or m[0].bytes <= free}
    agree = session.processes.agree
    found = microseconds(ways, agree=agree)
    listed: list[Any] = [[*way, time] for way, time in found.items()]
    times: dict[str, dict[int, float]] = {}
    for form, size, time in agree("times of ways", listed):
        if time != float("inf"):
            times.setdefault(form, {})[size] = time
    return times
