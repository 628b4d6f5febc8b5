"""Read the record of a run, from its folder or from W&B's offline file."""

import argparse
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runner.errors import ConfigError
from runner.record.checksums import check_records
from runner.record.format import EXPORTED, check_format
from runner.record.untrusted import read_foreign, read_rows

# To the config, when recorded.
_ADDED = ("hydra", "optimizer_probe", "provenance", "format")
_FILES = ("config.json", "metrics.jsonl", "provenance.json")


class Recorded(NamedTuple):
    """One run as it was recorded.

    Attributes:
      source: the run folder or the .wandb file.
      config: resolved, as in config.json.
      hydra: `choices` and `overrides` of its command line; empty if not recorded.
      provenance: from `runner.record.provenance` and `runner.checks.fingerprints`.
      rows: in order, without `time/*`, which never repeats.
      finished: whether the run finished, so that `rows` are complete.
    """

    source: Path
    config: Mapping[str, Any]
    hydra: Mapping[str, Any]
    provenance: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    finished: bool

    @property
    def config_dir(self) -> str | None:
        """The --config-dir of its command, which Hydra parses with argparse too."""
        command = self.provenance.get("command")
        words = map(str, command) if isinstance(command, list) else ()
        parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
        parser.add_argument("--config-dir", "-cd")
        with contextlib.suppress(argparse.ArgumentError):  # not a command of runner's
            return parser.parse_known_args([*words])[0].config_dir


def read(path: Path, purpose: str = "used") -> Recorded:
    """Read a run folder, a `run-*.wandb` file or a folder with one such file.

    Args:
      purpose: what can't be done with one of another format, such as "replayed".

    Raises:
      ConfigError: it is not a run, is damaged or of another format.
    """
    recorded = _read(path)
    check_format(recorded.config, recorded.source, purpose)
    own = {k: v for k, v in recorded.config.items() if k not in _ADDED}
    return recorded._replace(config=own)


def _read(path: Path) -> Recorded:
    if path.exists() and not path.is_dir():
        if path.suffix != ".wandb":
            raise ConfigError(
                f"{path} is a file, and not a .wandb file of W&B's: name a run folder"
            )
        return _from_wandb(path)
    if not path.is_dir():
        raise ConfigError(f"{path} doesn't exist")
    if (path / EXPORTED).exists():
        raise ConfigError(
            f"{path} is an exported model and no run: init_from={path} reads it"
        )
    if any((path / name).is_symlink() or (path / name).exists() for name in _FILES):
        return _from_folder(path)
    runs = sorted(str(file.parent) for file in path.glob("*/config.json"))
    if not runs:
        from runner.record.mirrors.wandb_reader import wandb_files

        runs = wandb_files(path)
        if len(runs) == 1:
            return _from_wandb(runs[0])
    if runs:
        raise ConfigError(
            f"{path} is not a run but has several; name one, such as {runs[0]}"
        )
    raise ConfigError(
        f"{path} is not a run: it has no config.json and no run-*.wandb file"
    )


def _from_folder(folder: Path) -> Recorded:
    config = _needed(folder / "config.json", read_foreign)
    provenance = _needed(folder / "provenance.json", read_foreign)
    rows = _needed(folder / "metrics.jsonl", read_rows)
    summary = folder / "summary.json"
    status = _needed(summary, read_foreign).get("status") if summary.is_file() else None
    check_records(folder)
    return _recorded(folder, config, provenance, rows, status == "finished")


def _from_wandb(file: Path) -> Recorded:
    from runner.record.mirrors.wandb_reader import read_run

    run = _needed(file, read_run)
    config = run["config"]
    finished = run["exit_code"] == 0
    provenance = config.get("provenance", {})
    return _recorded(file, config, provenance, run["history"], finished)


def _recorded(
    source: Path, config: dict, provenance: dict, rows: Sequence[dict], finished: bool
) -> Recorded:
    hydra = config.get("hydra") or {}
    overrides = hydra.get("overrides", []) if isinstance(hydra, dict) else None
    if not isinstance(overrides, list) or not all(
        isinstance(o, str) for o in overrides
    ):
        raise ConfigError(f"{source}: hydra.overrides in its config is no list of text")
    if not isinstance(provenance, dict):
        raise ConfigError(f"{source}: its provenance is not a mapping")
    kept = [
        # W&B adds its own keys, which begin with an underscore.
        {k: v for k, v in row.items() if not k.startswith(("_", "time/"))}
        for row in rows
    ]
    return Recorded(source, config, hydra, provenance, kept, finished)


def _needed(path: Path, read: Callable[[Path], Any]) -> Any:
    """What `read` makes of a file that must be there.

    Raises:
      ConfigError: `read` raised OSError or ValueError.
    """
    try:
        return read(path)
    except OSError as error:
        raise ConfigError(
            f"{path} can't be read: {error.strerror}. A run leaves it"
        ) from error
    except ValueError as error:
        where = "" if str(path) in str(error) else f"{path.parent}: "
        raise ConfigError(f"{where}{error}") from error
