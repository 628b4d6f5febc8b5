"""Brings run folders to a tracker, at any time."""

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from runner.config import conf
from runner.config.arguments import Parser
from runner.config.explain import MISTAKES, explain
from runner.errors import ConfigError
from runner.job.trackers import trackers_of
from runner.record.files import is_locked
from runner.record.format import run_folders
from runner.record.mirrors.follow import Spec, copy, target
from runner.record.mirrors.tracker import source
from runner.record.output import outlive_readers
from runner.record.untrusted import printable

_EPILOG = """
DIR is a run folder or holds some, of a sweep for example; those of the first edition
too. A run that is still training is followed until its end. Nothing is mirrored twice:
W&B gets what it lacks; csv, tensorboard and trackio are written from the start.

W&B gets a run as its own settings say, unless an override says otherwise.

Exit status: 0 if the trackers have all that the folders have, else 1.

examples:
  python -m runner.mirror outputs/2026-01-31/12-00-00 wandb=online
  python -m runner.mirror multirun/2026-01-31/12-00-00 tracker=[csv,tensorboard]
"""
_LOOK_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Mirror runs, and print where each is.

    Args:
      arguments: of the command line, sys.argv's by default.

    Returns:
      the exit status: 0 if all is there, 1 if not or after a mistake, 130 after Ctrl-C.
    """
    options = _parser().parse_intermixed_args(arguments)
    # A job of a sweep has a name such as seed=0.
    is_folder = {i: "=" not in i or os.path.exists(i) for i in options.items}
    folders = [Path(item) for item in options.items if is_folder[item]]
    overrides = [item for item in options.items if not is_folder[item]]
    try:
        trackers, given = _chosen(overrides, options.config_dir)
        runs = _found(folders)
        if len(runs) > 1:
            os.environ.pop("WANDB_RUN_ID", None)  # a name for one run
        whole = [_mirror(run, trackers, given) for run in runs]
    except MISTAKES as error:
        _say(f"error: {explain(error)}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if all(whole) else 1


def _chosen(
    overrides: Sequence[str], config_dir: Path | None
) -> tuple[dict[str, Spec], dict[str, Any]]:
    """The trackers, and those settings of W&B that `overrides` give."""
    names = [override.partition("=")[0].lstrip("+") for override in overrides]
    for name in names:
        if name.partition(".")[0] not in ("tracker", "wandb"):
            raise ConfigError(
                f"{name} can't be given here, and there is no such folder; "
                "only tracker and wandb can"
            )
    conf.register()
    own = conf.search_path(config_dir)
    with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides=[*own, *overrides])
    wandb = OmegaConf.to_container(cfg.wandb, resolve=True)
    assert isinstance(wandb, dict)
    keys = {"mode" if name == "wandb" else name.partition(".")[2] for name in names}
    trackers = trackers_of(cfg)
    if not trackers:
        raise ConfigError("tracker=none: there is nothing to bring the runs to")
    return trackers, {key: wandb[key] for key in keys if key in wandb}


def _found(folders: Iterable[Path]) -> list[Path]:
    runs: dict[Path, None] = {}
    for folder in folders:
        # A job that failed before it was configured has nothing else.
        found = [f for f in run_folders(folder) if (f / "config.json").is_file()]
        if not found:
            raise ConfigError(f"{folder}: no run there: a run has a config.json")
        runs |= dict.fromkeys(sorted(found))
    return [*runs]


def _mirror(
    folder: Path, trackers: Mapping[str, Spec], given: Mapping[str, Any]
) -> bool:
    """Mirror one run, and say where it is now. Returns whether all of it is."""
    try:
        run = source(folder)
        wandb = {**run.config.get("wandb", {}), **given}
        run = run._replace(config={**run.config, "wandb": wandb})
    except (OSError, ValueError, TypeError) as error:  # `wandb` may be anything there
        _say(f"{folder}: can't be read: {error}")
        return False
    is_whole = True
    for name, spec in trackers.items():
        if not target(spec).is_wanted(run.config):
            print(f"{folder}: wandb=disabled; wandb=offline or wandb=online mirrors it")
            continue
        tracker = copy(
            spec,
            run,
            lambda: bool(is_locked(folder)),
            _say,
            lambda tracker: time.sleep(_LOOK_SECONDS),
        )
        label = tracker.label or name
        said = f"incomplete: {tracker.problem}" if tracker.problem else tracker.where
        print(printable(f"{folder}: {label}: {said}"), flush=True)
        is_whole &= not tracker.problem
    return is_whole


def _say(message: str) -> None:
    print(printable(message), file=sys.stderr)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m runner.mirror",
        description="Bring run folders to a tracker: after an outage, from a machine "
        "without a network, or to another tracker.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add(
        "items",
        nargs="+",
        metavar="DIR or OVERRIDE",
        help="folders, and overrides of the groups tracker and wandb",
    )
    add("--config-dir", type=Path, metavar="FOLDER", help="your own YAML files")
    return parser


if __name__ == "__main__":
    outlive_readers()
    sys.exit(main())
