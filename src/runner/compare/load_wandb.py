"""Runs read from W&B's offline files, for when the run folders are gone."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.compare.load import Record, Runs, found_in, read_all
from runner.record.directions import FIRST_EDITION, better, note_best
from runner.record.mirrors.wandb_reader import read_run, wandb_files


def load(paths: Sequence[Path]) -> Runs:
    """Read the `run-*.wandb` files below `paths` into the tables of `load.load`.

    Needs wandb, but no account and no server. A file without an end, as a killed run
    leaves it, is a run with the status "running".

    Raises:
      ConfigError: no file that can be read.
    """
    found, problems = found_in(paths, wandb_files)
    # Our run folder is above wandb/offline-run-<time>-<id>/run-<id>.wandb.
    above = {f: f.parents[2] if f.parents[1].name == "wandb" else f for f in found}
    files_in = Counter(above.values())  # a resumed run has several
    named = {f: above[f] if files_in[above[f]] == 1 else f for f in found}
    none = (
        f"no offline W&B run in {', '.join(map(str, paths))}: none of their files is a "
        "readable run-*.wandb"
    )
    return read_all(found, problems, lambda f: _record(named[f], read_run(f)), none)


def _record(folder: Path, run: dict[str, Any]) -> Record:
    config = run["config"]
    provenance = config.pop("provenance", {})
    if not isinstance(provenance, dict):
        raise ValueError("its provenance is not a mapping")
    directions = provenance.get("directions", FIRST_EDITION)
    best: dict[str, dict[str, Any]] = {}
    rows = [{k: v for k, v in r.items() if k[0] != "_"} for r in run["history"]]
    for row in rows:
        note_best(best, row, lambda name: better(name, directions))
    final = {k: v for row in rows for k, v in row.items() if k != "step"}
    code = run["exit_code"]
    status = "running" if code is None else "failed" if code else "finished"
    summary = {"status": status, **run["summary"], "final": final, "best": best}
    return Record(folder, config, provenance, summary, rows)
