"""`sweep=optuna`: a search that the same command continues."""

import contextlib
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from runner.config.hydra_files import discard_unused
from runner.errors import ConfigError
from runner.job.identity import base_of
from runner.record.files import read_object, to_json, write_json
from runner.record.secrets import scrub
from runner.sweep import ledger
from runner.sweep.launch import is_given, show_results
from runner.sweep.launcher import Search

# In a search's folder: what it searches, and what Hydra's sweeper writes at its end.
_RECORD, _RESULTS = "search.json", "optimization_results.yaml"
# Settings of the sweeper that another value of doesn't make another search.
_OTHERS = ("_target_", "n_trials", "study_name", "storage", "max_failure_rate")


def one_optimizer(cfg: Any, trial: Any) -> None:
    """Refuse to search several optimizers in the search space of one of them.

    Optuna's sweeper calls it with the composed configuration and the trial.

    Raises:
      ConfigError: `optimizer` is among the searched keys.
    """
    if "optimizer" in trial.params:
        raise ConfigError(
            "sweep=optuna searches one optimizer at a time, because each has its own "
            "search space: run it once for each value of optimizer"
        )


@contextlib.contextmanager
def continued(sweeper: Any, arguments: Sequence[str]) -> Iterator[None]:
    """Let Hydra's sweeper, within the block, continue the search that it began before.

    A sampler with a seed asks for the same trials if it is told the same results. So a
    search is made again from its start, and its sweep's ledger has the results of all
    trials that are done: they are the same, bit for bit, as without an interruption.

    Args:
      sweeper: a set up `OptunaSweeperImpl`. A sampler without a seed gets one.
      arguments: of its `sweep`.

    Raises:
      ConfigError: `hydra.sweep.dir` has another search.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    master, launcher = sweeper.config, sweeper.launcher
    _check_storage(master.hydra.sweeper.storage)
    settings: Any = OmegaConf.to_container(master.hydra.sweeper, resolve=True)
    asked = {k: v for k, v in settings.items() if k not in _OTHERS}
    record = to_json(scrub({**asked, "arguments": list(arguments)}))
    folder = Path(master.hydra.sweep.dir)
    if getattr(launcher, "resume", True) and not is_given(master, "hydra.sweep.dir"):
        folder = _unfinished(folder, record, master) or folder
    launcher.resume = False  # by its jobs, as launch would: each batch has others
    with open_dict(master.hydra.sweep):
        master.hydra.sweep.dir = str(folder)
    seed = _seed(folder, record)
    sampler = master.hydra.sweeper.sampler
    if "seed" in sampler and sampler.seed is None:
        sweeper.sampler = instantiate(sampler, seed=seed)
    search = launcher.search = Search(
        _searched(settings["params"] or {}, arguments), {}
    )
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _RECORD, {"search": record, "seed": seed})
    try:
        yield
    except BaseException:
        discard_unused(folder, made, _RECORD)
        raise
    if search.jobs:
        show_results(list(search.jobs.values()), search.keys, folder, master.objective)


def _check_storage(storage: Any) -> None:
    """Refuse a database that Optuna 2, which Hydra's sweeper needs, can't write."""
    if not isinstance(storage, str) or storage.startswith("redis"):
        return
    import sqlalchemy

    if int(sqlalchemy.__version__.partition(".")[0]) > 1:
        raise ConfigError(
            f"hydra.sweeper.storage={storage} needs SQLAlchemy 1, and here is "
            f"{sqlalchemy.__version__}. It may stay null: the search's folder has all "
            "results, and the same command continues it"
        )


def _unfinished(new: Path, record: Any, master: DictConfig) -> Path | None:
    """The folder beside `new` in which the same search has not ended."""
    base = base_of(master)
    for path in sorted(new.parent.parent.glob(f"*/*/{_RECORD}"), reverse=True):
        folder = path.parent
        with contextlib.suppress(OSError, ValueError, ConfigError):
            if (folder / _RESULTS).exists() or read_object(path)["search"] != record:
                continue
            found = ledger.read(folder / "sweep.json")
            if scrub(found["base"]) == ledger.recorded(base, found["swept"]):
                print(
                    f"continuing the unfinished search in {folder} "
                    "(hydra.launcher.resume=false starts a new one)",
                    file=sys.stderr,
                )
                return folder
    return None


def _seed(folder: Path, record: Any) -> int:
    """The seed for a sampler that has none: of the search in `folder`, or a new one."""
    path = folder / _RECORD
    if not path.exists():
        return secrets.randbits(32)
    try:
        before = read_object(path)
        known, seed = before["search"], int(before["seed"])
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise ConfigError(
            f"{path} can't be read as a search's: {error!r}. To start over, set "
            "hydra.sweep.dir to another folder"
        ) from error
    changed = [key for key in {**known, **record} if known.get(key) != record.get(key)]
    if changed:
        raise ConfigError(
            f"{path} belongs to a search with another {changed[0]}: "
            f"{known.get(changed[0])}, now {record.get(changed[0])}. Give "
            "hydra.sweep.dir another folder, or undo the change"
        )
    return seed


def _searched(params: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    """The keys that are searched, as they were given."""
    lines = [*(f"{key}={value}" for key, value in params.items()), *arguments]
    parsed = OverridesParser.create().parse_overrides(lines)
    last = {override.get_key_element(): override for override in parsed}
    return [key for key, override in last.items() if override.is_sweep_override()]
