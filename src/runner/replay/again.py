"""Train a recorded run again."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from runner.checks.fingerprints import FINGERPRINTS
from runner.core.run import Host, Run
from runner.core.train import train
from runner.errors import ConfigError
from runner.job.check import listed
from runner.job.prepared import built_and_identified, fingerprints_and_provenance
from runner.job.run import program_facts
from runner.job.session import Session
from runner.job.warm_start import check_same
from runner.record.conditions import BITS, Fact, changed
from runner.record.console import console, print_table
from runner.record.recorder import Recorder
from runner.record.terminal import Progress
from runner.record.untrusted import printable
from runner.replay.rows import Differs, RecordEnds, Rows
from runner.saved import configuration
from runner.saved.machine import set_up
from runner.saved.record import Recorded, read
from runner.saved.trusted import check_targets
from runner.settings import GROUPS
from runner.tasks.task import directions
from runner.trees import differences


class Limits(NamedTuple):
    """What may differ.

    Attributes:
      tolerance: the largest relative difference if bits can't be compared.
      rounding: use `tolerance` even if bits can be compared.
      contradiction: replay even a configuration that contradicts itself.
      trust: import whatever it names.
      config_dir: a folder of the user's own YAML files, besides conf/.
    """

    tolerance: float
    rounding: bool = False
    contradiction: bool = False
    trust: bool = False
    config_dir: Path | None = None


def replay(path: Path, limits: Limits, out: Path | None = None) -> str:
    """Train the run at `path` again, and print what has changed since.

    Args:
      out: a folder to record the replay in, as a run.

    Returns:
      one sentence, which says that all rows are equal.

    Raises:
      Differs: they are not.
      ConfigError: the run can't be replayed.
      TrainingStopped: the replay ended early, but the recorded run didn't.
    """
    if out is not None and (out / "config.json").exists():
        raise ConfigError(f"--out {out} already has a run; name another folder")
    recorded = read(path, "replayed")
    if not recorded.rows:
        raise ConfigError(f"{path} has no metrics to compare a replay with")
    if not limits.trust:
        how = "--config-dir adds your own YAML files; --trust imports whatever it names"
        check_targets(recorded, limits.config_dir, how)
    cfg = _configuration(recorded, limits)
    session = Session()
    set_up(cfg, recorded.provenance)
    # The recorded number of steps counts. If the data have another size now, the
    # digest of the data shows it, not an error about epochs.
    cfg.train.epochs = None
    built, digests = built_and_identified(cfg, session)
    check_same(recorded.provenance, built.taken)
    run, here = built.run, fingerprints_and_provenance(built, digests, session)
    facts = changed(recorded.provenance, here)
    print_table(("", "recorded", "here"), facts, console())
    exact = not limits.rounding and not any(fact.decides for fact in facts)
    _show_rule(facts, limits)
    differing = _differing(recorded.provenance, here)
    if differing:
        names = printable(", ".join(differing))
        print(f"Different even before training: {names}.")
    tolerance = None if exact else limits.tolerance
    rows = Rows(recorded.rows, recorded.finished, tolerance, listed(cfg, "probes"))
    recorder = _recorder(recorded, run, here, out)
    try:
        step = _train(run, session, rows, recorder)
    except Differs as difference:
        raise Differs(f"{difference}{_beside(recorded.provenance)}") from None
    # The same files may be somewhere else; their examples gave the same rows.
    differing = [name for name in differing if name != "data_digest.files"]
    if exact and differing:
        raise Differs(f"all rows are equal, but not {' and '.join(differing)}")
    return _verdict(recorded, rows, step, len(run.learning_rates), exact)


def _differing(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The names of the fingerprints that were recorded and differ now."""
    return [
        key
        for name in FINGERPRINTS
        if name in recorded
        # A probe of another length is an earlier version's, on another problem.
        and not (
            name == "optimizer_probe"
            and len(recorded[name] or ()) != len(here[name] or ())
        )
        for key, *_ in differences(recorded[name], here[name], key=name)
    ]


def _beside(provenance: Mapping[str, Any]) -> str:
    """A sentence on what may differ if the run was a member of a population."""
    members = provenance.get("members")
    if type(members) is not int or members < 2:
        return ""
    return (
        f". The run trained side by side with {members - 1} others, which rounds "
        "differently than alone, as here, and such differences may grow with the "
        "steps; its sweep gives the same bits again"
    )


def _configuration(recorded: Recorded, limits: Limits) -> DictConfig:
    state = "finished" if recorded.finished else "cut short"
    about = f"{recorded.source} ({state}, {len(recorded.rows)} logged rows)"
    print(printable(f"Replaying {about}"))
    try:
        today = configuration.recompose(recorded, limits.config_dir)
    except ConfigError as error:
        today = None
        print(printable(f"warning: not compared with conf/: {error}"))
    cfg = configuration.typed(recorded, today)
    names = [f"{g}={OmegaConf.select(cfg, f'{g}._target_')}" for g in GROUPS]
    line = f"  {' '.join(names)} seed={cfg.seed} train.steps={cfg.train.steps}"
    print(printable(line))
    edits = "" if today is None else configuration.differences(recorded, today)
    if edits:
        edits = printable(edits)
        print(
            "warning: config.json was edited, or conf/ has changed since: "
            f"{edits}. Replaying config.json"
        )
    if not limits.contradiction:
        configuration.check_agreement(recorded, today)
    return cfg


def _show_rule(facts: Sequence[Fact], limits: Limits) -> None:
    reasons = [fact.name for fact in facts if fact.decides]
    if reasons:
        has = "has" if len(reasons) == 1 else "have"
        why = f"{', '.join(reasons)} {has} changed"
    elif limits.rounding:
        why = "as --allow-rounding asks"
    else:
        print(f"Comparing bit for bit: {', '.join(BITS)} are the same.")
        return
    print(f"Comparing within {limits.tolerance:g} (relative): {why}.")


def _recorder(
    recorded: Recorded, run: Run, here: dict[str, Any], out: Path | None
) -> Recorder | None:
    if out is None:
        return None
    epochs = {"epochs": recorded.config.get("train", {}).get("epochs")}
    return Recorder(
        out,
        config=run.config
        | {"train": run.config["train"] | epochs}
        | {"optimizer_probe": here["optimizer_probe"]}
        | {"hydra": dict(recorded.hydra)},
        provenance=here
        | {"directions": directions(run.spec.task)}
        | {"replay_of": str(recorded.source)},
        trackers={},
        total_steps=len(run.learning_rates),
        quiet=True,
    )


def _train(run: Run, session: Session, rows: Rows, recorder: Recorder | None) -> int:
    """Train and compare; returns the step of the last row."""
    progress = Progress(len(run.learning_rates))
    last = 0

    def write(index: int, row: dict[str, Any]) -> None:
        nonlocal last
        last = row["step"]
        progress.row(row)
        if recorder:
            recorder.row(row)  # first, so that the row that differs is kept
        rows.compare(row)

    program = session.program(run.spec, run.values, run.timetable)
    try:
        with recorder or contextlib.nullcontext():
            for _, error in train(program, [run], Host(write)):
                assert error is not None
                raise error
            rows.end()
            if recorder:
                recorder.finish(program_facts(program))
    except RecordEnds:
        pass
    finally:
        progress.close()
    return last


def _verdict(recorded: Recorded, rows: Rows, step: int, total: int, exact: bool) -> str:
    part = "" if step == total else f" of {total}"
    done = f"Replayed {step}{part} steps of {recorded.source}"
    found = f"all {rows.count} logged rows equal"
    if exact:
        return f"{done}: {found} bit for bit."
    where = f" ({rows.place})" if rows.place else ""
    largest = f"the largest relative difference is {rows.largest:.3g}{where}"
    return f"{done}: {found}; {largest}."
