"""Runs from W&B's offline files, for those whose run folders are gone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.compare.load import Record, Runs, tables
from runner.errors import ConfigError
from runner.record.mirrors.wandb_reader import read_run, wandb_files


def load(paths: Sequence[Path]) -> Runs:
    """Read the `run-*.wandb` files below `paths`, as `runner.compare.load` folders.

    Needs wandb, no account and no server. A file without an end, as a killed run leaves
    it, is a run whose status is "running".

    Raises:
      ConfigError: a path that isn't a folder, or no file that can be read.
    """
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder")
    files = sorted({file for path in paths for file in wandb_files(path)})
    folders = [_run_folder(file) for file in files]
    records, problems = [], []
    for file, folder in zip(files, folders, strict=True):
        try:
            # A resumed run has several files in its folder.
            place = folder if folders.count(folder) == 1 else file
            records.append(_record(place, read_run(file)))
        except (OSError, ValueError) as error:
            problems.append(" ".join(f"{file}: {error}".split()))
    if not records:
        raise ConfigError(
            f"no offline W&B run in {', '.join(map(str, paths))}: none of their files "
            "is a readable run-*.wandb" + "".join(f"\n{p}" for p in problems)
        )
    return tables(records, problems)


def _run_folder(file: Path) -> Path:
    """The folder of ours above wandb/offline-run-<time>-<id>/run-<id>.wandb."""
    return file.parents[2] if file.parents[1].name == "wandb" else file


def _record(folder: Path, run: dict[str, Any]) -> Record:
    config = run["config"]
    provenance = config.pop("provenance", {})
    final: dict[str, Any] = {}
    best: dict[str, dict[str, Any]] = {}
    for row in run["history"]:
        metrics = {k: v for k, v in row.items() if k[0] != "_" and k != "step"}
        final |= metrics
        for name, value in metrics.items():
            sign = name.endswith("accuracy") - name.endswith("loss")
            if not sign or value != value:
                continue
            if name not in best or sign * value > sign * best[name]["value"]:
                best[name] = {"value": value, "step": row["step"]}
    code = run["exit_code"]
    status = "running" if code is None else "failed" if code else "finished"
    summary = {"status": status, **run["summary"], "final": final, "best": best}
    rows = [{k: v for k, v in r.items() if k[0] != "_"} for r in run["history"]]
    return Record(folder, config, provenance, summary, rows)
