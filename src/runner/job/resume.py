"""Resumes a run from its own folder after a kill, or from another run's checkpoint."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from runner.config.conf import recorded
from runner.core.run import Run
from runner.core.shapes import start_shapes
from runner.core.snapshot import Start
from runner.errors import ConfigError, Finished
from runner.job import checkpoint, restore
from runner.record.checksums import check_records
from runner.record.conditions import changed
from runner.record.files import from_json, read_object, to_json
from runner.record.format import check_format
from runner.record.recorder import Kept, Recorder
from runner.record.secrets import scrub
from runner.settings import LENGTH, affects, may_change_on_resume
from runner.trees import differences


class Resumed(NamedTuple):
    """The state from which a run resumes.

    Attributes:
      start: the checkpoint; None means the beginning.
      kept: the rows that it already has.
      wandb_id: of the W&B run to continue; None starts a new one.
      restarts: the record of this restart and those before it.
      changes: how it differs from a run that was never interrupted.
    """

    start: Start | None
    kept: Kept
    wandb_id: str | None
    restarts: list[dict[str, Any]]
    changes: list[str]


class _Earlier(NamedTuple):
    """A run folder as an earlier process left it."""

    folder: Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    status: str
    final: Any  # by name, if the file is what it should be

    @property
    def steps(self) -> int:
        return self.config["train"]["steps"]


def resume(
    cfg: DictConfig,
    run: Run,
    folder: Path,
    provenance: Mapping[str, Any],
    in_sweep: bool,
) -> Resumed | None:
    """Load what `cfg.checkpoint.resume` names, with the arrays on this run's devices.

    Args:
      cfg: the configuration that `run` is built from.
      run: the run to resume.
      folder: its run folder.
      provenance: of this process.
      in_sweep: whether it is a sweep's job, which may resume with its population.

    Returns:
      None if there is nothing to resume: a new run.

    Raises:
      Finished: the folder holds this very run, and it has ended.
      ConfigError: the folder's run was refused, or had another configuration; the
        checkpoint belongs to another model or optimizer, is past this run's end, or
        can't be read.
    """
    wanted = cfg.checkpoint.resume
    if wanted == "never":
        return None
    own = _earlier(folder) if _has_begun(folder) else None
    if own is not None:
        _check_not_refused(own)
        _check_config(cfg, own)
        steps = len(run.learning_rates)
        if own.status == "finished" and steps <= own.steps:
            raise _finished(cfg, own)
        # A sweep that was killed while the job's population ended: the population has
        # the state that continues it bit for bit.
        was_member = in_sweep and (own.provenance.get("members") or 1) > 1
        if restore.steps(folder / restore.FOLDER) and not was_member:
            return _from(own, None, run, folder, provenance)
        if own.status == "finished":
            raise ConfigError(
                f"run folder {folder} has finished its train.steps={own.steps}, and "
                f"has no checkpoint to continue from to {steps}: checkpoint.last=true "
                "would have saved one"
            )
    wandb_id = own.provenance.get("wandb_id") if own else None
    if wanted != "auto":
        resumed = _from_other(cfg, run, folder, provenance)
        return resumed._replace(wandb_id=wandb_id)
    if own is None:
        return None
    return Resumed(
        start=None,
        kept=Kept(folder / "metrics.jsonl", 0, 0.0),
        wandb_id=wandb_id,
        restarts=_restarts(own, 0, folder, provenance),
        changes=[],
    )


def with_choice(cfg: DictConfig, folder: Path) -> DictConfig:
    """`cfg` with the form of convolutions that was chosen for the run it resumes.

    Args:
      cfg: the composed configuration; it isn't changed.
      folder: the run folder.
    """
    wanted = cfg.checkpoint.resume
    if cfg.train.convolution != "auto" or wanted == "never":
        return cfg
    if _has_begun(folder):
        earlier = _earlier(folder)
    else:
        earlier = None if wanted == "auto" else _named(wanted)[0]
    if earlier is not None:
        cfg = copy.deepcopy(cfg)
        chosen = earlier.config["train"].get("convolution", "auto")
        cfg.train.convolution = chosen
    return cfg


def checkpoint_facts(folder: Path) -> dict[str, Any]:
    """The provenance of a run that has left checkpoints in `folder`; else nothing."""
    if not restore.steps(folder / restore.FOLDER):
        return {}
    earlier = _earlier(folder)
    return earlier.provenance if earlier else {}


def _has_begun(folder: Path) -> bool:
    """Whether `folder` has rows or checkpoints, which another run would spoil."""
    metrics = folder / "metrics.jsonl"
    has_rows = metrics.exists() and metrics.stat().st_size > 0
    return has_rows or bool(restore.steps(folder / restore.FOLDER))


def _from_other(
    cfg: DictConfig, run: Run, folder: Path, provenance: Mapping[str, Any]
) -> Resumed:
    """Resume from the run or the checkpoint that `cfg.checkpoint.resume` names."""
    other, step = _named(cfg.checkpoint.resume)
    _check_not_refused(other)
    resumed = _from(other, step, run, folder, provenance)
    changed_keys = [
        f"{key}: {old} up to step {resumed.kept.step}, then {new}"
        for key, old, new in _differing(cfg, other)
    ]
    return resumed._replace(changes=resumed.changes + changed_keys)


def _named(resume: str) -> tuple[_Earlier, int | None]:
    """The run that `checkpoint.resume` names, and the step if it names one."""
    source, step = restore.locate(Path(resume))
    other = _earlier(source)
    if other is None:
        raise ConfigError(f"checkpoint.resume={resume}: {source} is not a run folder")
    return other, step


def _check_not_refused(earlier: _Earlier) -> None:
    """Refuse to continue a run whose witness found it to do something else."""
    if earlier.status == "refused":
        raise ConfigError(
            f"run folder {earlier.folder} holds a run that was refused: its "
            "summary.json says why. It didn't train what its config says, so it isn't "
            "resumed; remove the folder, or choose another"
        )


def _earlier(folder: Path) -> _Earlier | None:
    if not (folder / "config.json").exists():
        return None
    try:
        config, provenance, summary = (
            read_object(folder / f"{name}.json")
            for name in ("config", "provenance", "summary")
        )
    except FileNotFoundError:  # killed while it wrote the first of them
        return None
    check_format(config, f"run folder {folder}", "resumed")
    train, status = config.get("train"), summary.get("status")
    if not (isinstance(train, dict) and type(train.get("steps")) is int):
        raise ConfigError(f"{folder / 'config.json'} has no number as train.steps")
    if not isinstance(status, str):
        raise ConfigError(f"{folder / 'summary.json'} has no text as status")
    # Rows are compared with the checkpoint that goes on from them.
    check_records(folder, ("config.json", "provenance.json", "summary.json"))
    return _Earlier(folder, config, provenance, status, summary.get("final"))


def _from(
    earlier: _Earlier,
    step: int | None,
    run: Run,
    folder: Path,
    provenance: Mapping[str, Any],
) -> Resumed:
    """Resume from the newest checkpoint of `earlier`, or from that of `step`."""
    target = start_shapes(run.spec, run.values)
    checkpoints = earlier.folder / restore.FOLDER
    metrics = earlier.folder / "metrics.jsonl"

    check = restore.checks_rows(metrics)
    start = restore.newest(checkpoints, step, target, run.spec.description, check)
    if start.step > len(run.learning_rates):
        raise ConfigError(
            f"train.steps={len(run.learning_rates)} is less than the {start.step} "
            f"steps of the checkpoint {checkpoints / str(start.step)}"
        )
    return Resumed(
        start=start,
        kept=Kept(
            metrics,
            start.step,
            start.record["wall_seconds"],
            start.record.get("rows", {}).get("bytes"),
        ),
        wandb_id=earlier.provenance.get("wandb_id"),
        restarts=_restarts(earlier, start.step, folder, provenance),
        changes=changes(start, earlier.provenance, run, provenance),
    )


def changes(
    start: Start, earlier: Mapping[str, Any], run: Run, here: Mapping[str, Any]
) -> list[str]:
    """How a run resumed from `start` differs from an uninterrupted one.

    Args:
      start: the checkpoint.
      earlier: the provenance of the process that made it.
      run: the resumed run.
      here: the provenance of this process.
    """
    found = _disturbed(start, earlier, here)
    before = start.record["timetable"]
    rates = run.learning_rates[: start.step]
    if checkpoint.digest(rates) != start.record["learning_rates"]:
        found.append(
            f"learning rates: those of train.steps={before[0]} up to step {start.step}"
        )
    was_last = start.step == before[0] < len(run.learning_rates)
    if was_last and start.step % before[1]:
        found.append(f"step {start.step}, the last of a shorter run, was evaluated")
    return found


def _disturbed(
    start: Start, earlier: Mapping[str, Any], here: Mapping[str, Any]
) -> list[str]:
    """Changes from earlier restarts, and those of code, data and machine."""
    facts = [
        fact
        for fact in changed(earlier, here)
        if (fact.decides and fact.name != "changes on the way")
        or fact.name.startswith("module_digests.")
    ]
    name = "data_digest"
    data = differences(earlier.get(name, here.get(name)), here.get(name), key=name)
    return [
        *(earlier.get("changes") or []),
        *(
            f"{name}: {old} up to step {start.step}, then {new}"
            for name, old, new in [*facts, *data]
        ),
    ]


def continued(recorder: Recorder, start: Start, size: int | None) -> None:
    """Make `recorder` continue after `start`, a checkpoint of its whole population.

    Its folder must have rows, and it must not be entered yet.

    Args:
      size: of the rows up to then, in bytes; None if the checkpoint doesn't tell.
    """
    earlier = _earlier(recorder.folder)
    assert earlier is not None and recorder.kept is not None
    seconds = start.record["wall_seconds"]
    recorder.kept = recorder.kept._replace(step=start.step, seconds=seconds, size=size)
    here = recorder.provenance
    here["restarts"][-1]["step"] = start.step
    here["changes"] = _disturbed(start, earlier.provenance, here)


def _restarts(
    earlier: _Earlier, step: int, folder: Path, provenance: Mapping[str, Any]
) -> list[dict[str, Any]]:
    is_same = earlier.folder.resolve() == folder.resolve()
    this = {
        "step": step,
        "started": provenance["started"],
        # A killed process can't record that.
        "after": "killed" if earlier.status == "running" else earlier.status,
        "from": None if is_same else str(earlier.folder.resolve()),
    }
    return [*(earlier.provenance.get("restarts") or []), this]


def _check_config(cfg: DictConfig, earlier: _Earlier) -> None:
    found = _differing(cfg, earlier)
    if found:
        key, old, new = found[0]
        raise ConfigError(
            f"run folder {earlier.folder} holds the rows of an earlier run with "
            f"{key}={old}, now {new}. Set hydra.run.dir (hydra.sweep.dir with -m) to "
            "another folder, or undo the change to resume that run"
        )


def _finished(cfg: DictConfig, earlier: _Earlier) -> Finished:
    """What to say of a run that has ended, if `cfg` asks for just that.

    Raises:
      ConfigError: it asks for another length, or another end.
    """
    now = to_json(scrub(recorded(cfg)))
    for key, old, new in differences(earlier.config, now, _is_beside_the_result):
        raise ConfigError(
            f"run folder {earlier.folder} holds a finished run with {key}={old}, now "
            f"{new}. Set hydra.run.dir (hydra.sweep.dir with -m) to another folder"
        )
    final = from_json(earlier.final)
    if not (isinstance(final, dict) and isinstance(final.get(cfg.objective), float)):
        raise ConfigError(
            f"{earlier.folder / 'summary.json'} has no number as final.{cfg.objective}"
        )
    result = final[cfg.objective]
    return Finished(
        f"the run in {earlier.folder} has finished already: {cfg.objective} "
        f"{result:.6g}",
        result,
    )


def _is_beside_the_result(key: str) -> bool:
    return may_change_on_resume(key) and not affects(key) & LENGTH


def _differing(cfg: DictConfig, earlier: _Earlier) -> list[tuple[str, Any, Any]]:
    """Differences from `earlier` that resuming doesn't allow, at its length."""
    then = copy.deepcopy(cfg)  # values that refer to the length need the old one
    for key in ("steps", "epochs"):
        then.train[key] = earlier.config["train"][key]
    now = to_json(scrub(recorded(then)))
    return differences(scrub(earlier.config), now, may_change_on_resume)
