"""The states that a run has left: which there are, and which one is meant."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from runner.errors import ConfigError, few
from runner.job import restore
from runner.record.files import STATE
from runner.saved.record import Recorded


class State(NamedTuple):
    """A state of a run.

    Attributes:
      name: "best", "last", or "step" for any other.
      step: the optimizer steps that it comes after.
      checkpoint: the folder that has it; None if it is in STATE of the run folder.
    """

    name: str
    step: int
    checkpoint: Path | None

    def __str__(self) -> str:
        return f"{'' if self.name == 'step' else f'{self.name}, '}step {self.step}"


def find(recorded: Recorded, summary: Mapping[str, Any], asked: str | None) -> State:
    """The state that is asked for.

    Args:
      asked: "best", "last" or a step. None: the one that the run ended with, which is
        the best one where that was kept; of a run that hasn't finished, the newest.

    Raises:
      ConfigError: the run has no such state; names those that it has.
    """
    folder = recorded.source
    if asked not in (None, "best", "last") and not asked.isdecimal():
        raise ConfigError(
            f"--state {quote(asked)} must be best, last or a step, such as 100"
        )
    saved = restore.steps(folder / restore.FOLDER)
    keeps_best = _section(recorded.config, "checkpoint").get("best") is True
    best = _best_step(recorded, summary, saved) if keeps_best else None
    steps = summary.get("steps")
    end = None  # the step of the state in STATE
    if recorded.finished and type(steps) is int and (folder / STATE).is_file():
        end = best if best is not None and (best in saved or not saved) else steps
    if end is None and not saved:
        raise ConfigError(f"{folder} has no state: {_why(recorded, summary)}")
    if asked == "best" and not keeps_best:
        raise ConfigError(
            f"--state best: {folder} hasn't kept its best state, which "
            f"checkpoint.best=true does. It has {_list(saved, end)}"
        )
    newest = steps if recorded.finished else max(saved)
    default = newest if end is None else end
    step = {"best": best, "last": newest, None: default}.get(asked, asked)
    step = None if step is None else int(step)
    if step is None or (step != end and step not in saved):
        kept = {"best": "", "last": "; checkpoint.last=true keeps the last one"}
        hint = kept.get(str(asked), "; checkpoint.every_steps and .keep keep others")
        raise ConfigError(
            f"--state {asked}: {folder} hasn't kept that. It has "
            f"{_list(saved, end)}{hint}"
        )
    names = {newest: "last", best: "best"}
    name = asked if asked in ("best", "last") else names.get(step, "step")
    path = None if step == end else folder / restore.FOLDER / str(step)
    return State(name, step, path)


def _best_step(
    recorded: Recorded, summary: Mapping[str, Any], saved: list[int]
) -> int | None:
    """The step of the best evaluation; None before the first one."""
    records: list[Any] = [summary]
    if not recorded.finished and saved:  # whose summary may be from its beginning
        folder = recorded.source / restore.FOLDER / str(max(saved))
        try:
            records.insert(0, restore.whole_record(folder))
        except (OSError, ValueError):
            pass  # loading it reports that
    for record in records:
        found = _section(_section(record, "best"), recorded.config.get("objective"))
        if type(found.get("step")) is int:
            return found["step"]
    return None


def _section(tree: Mapping[str, Any], key: Any) -> Mapping[str, Any]:
    """A mapping in a file that anybody may have written; empty if it isn't one."""
    found = tree.get(key)
    return found if isinstance(found, Mapping) else {}


def _list(saved: list[int], end: int | None) -> str:
    there = sorted({*saved, *([] if end is None else [end])})
    return f"{'those' if len(there) > 1 else 'that'} of step {few(map(str, there))}"


def _why(recorded: Recorded, summary: Mapping[str, Any]) -> str:
    if recorded.finished:
        return f"{STATE} isn't there, and no checkpoint is"
    if (recorded.provenance.get("members") or 1) > 1:
        return (
            f"it is {summary.get('status')}, and a packed sweep keeps the checkpoints "
            "of its jobs in its own folder until they end. The sweep's command resumes "
            "it"
        )
    return (
        f"it is {summary.get('status')} and has no checkpoint, which "
        "checkpoint.every_steps saves on the way"
    )
