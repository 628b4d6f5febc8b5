"""A model in a folder of its own: its state, its records, and a card about them."""

import math
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from runner.errors import ConfigError, few
from runner.record.files import STATE, write_bytes, write_json
from runner.record.format import EXPORTED, FORMAT
from runner.record.provenance import PACKAGES
from runner.record.secrets import scrub
from runner.record.state import save_state
from runner.record.untrusted import one_line
from runner.saved.record import Recorded
from runner.saved.state import State
from runner.trees import flatten

# The overrides that decide which arrays a model has.
_OF_THE_MODEL = ("experiment", "task", "data", "model", "framework", "precision")
_SHOWN = 12  # numbers of a table, lines of a list


def export(
    recorded: Recorded,
    summary: Mapping[str, Any],
    state: State,
    arrays: dict[str, np.ndarray],
    folder: str | Path,
    config_dir: Path | None,
) -> Path:
    """Write a state, which `init_from` reads, with config, metrics and provenance.

    Everything is there, or nothing.

    Args:
      summary: the run's.
      state: which of its states this is.
      arrays: those of the state, by their names.
      folder: a new one.
      config_dir: the user's own YAML files; None if only the run's command names them.

    Returns:
      the folder.

    Raises:
      ConfigError: it has files already, or can't be written.
    """
    folder = Path(folder)
    target = folder.absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"--out {folder} has files already; name a new folder")
    half = target.with_name(f".{target.name}.{os.getpid()}")
    metrics = {
        **{key: summary.get(key) for key in ("status", "steps", "final", "best")},
        "state": {"name": state.name, "step": state.step},
    }
    try:
        half.mkdir(parents=True)
        save_state(half, arrays)
        write_json(half / "config.json", scrub({**recorded.config, "format": FORMAT}))
        write_json(half / EXPORTED, scrub(metrics))
        write_json(half / "provenance.json", scrub(dict(recorded.provenance)))
        text = card(recorded, metrics, arrays, folder, config_dir)
        write_bytes(half / "README.md", text.encode())
        os.replace(half, target)
    except OSError as error:
        path = error.filename or folder
        text = f"--out {folder}: {path} can't be written: {error.strerror}"
        raise ConfigError(one_line(text)) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return folder


def card(
    recorded: Recorded,
    metrics: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    folder: Path,
    config_dir: Path | None,
) -> str:
    """The model card, in Markdown.

    Args:
      metrics: as the export has them.
      folder: that of the export.
      config_dir: see `export`.
    """
    config, facts = scrub(dict(recorded.config)), scrub(dict(recorded.provenance))
    parameters = {k: x for k, x in arrays.items() if k.startswith("params/")}
    count = sum(math.prod(x.shape) for x in parameters.values())
    first = next(iter(parameters), next(iter(arrays)))
    kind = {"best": "the best state", "last": "the last state"}
    own = config_dir or scrub(recorded.config_dir)
    flag = ["--config-dir", one_line(own)] if own else []
    template = (files("runner.saved") / "card.md.j2").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(template).render(
        name=_name(config),
        count=f"{count:,}",
        what=kind.get(metrics["state"]["name"], "the state"),
        step=metrics["state"]["step"],
        steps=_leaf(config, "train.steps"),
        status=metrics["status"],
        trained=_rows(_trained(config, recorded.hydra)),
        numbers=_rows(_numbers(metrics)),
        data=_choice(recorded.hydra, "data"),
        digests=_digests(facts.get("data_digest")),
        versions=_versions(facts),
        file=repr(str(folder / STATE)),
        array=repr(first),
        shape=arrays[first].shape,
        command=shlex.join(
            ["python", "-m", "runner", *flag, f"init_from={folder}", *_model(recorded)]
        ),
    )


def _name(config: Mapping[str, Any]) -> str:
    model, data = (
        one_line(_leaf(config, f"{group}._target_")).rpartition(".")[2]
        for group in ("model", "data")
    )
    return f"{model} on {one_line(_leaf(config, 'data.name') or data)}"


def _leaf(config: Mapping[str, Any], key: str) -> Any:
    return flatten(config).get(key)


def _choice(hydra: Mapping[str, Any], group: str) -> str:
    choices = hydra.get("choices")
    return str(choices.get(group)) if isinstance(choices, Mapping) else "?"


def _trained(config: Mapping[str, Any], hydra: Mapping[str, Any]) -> Iterator[tuple]:
    for group in ("model", "framework", "data", "task", "optimizer", "schedule"):
        arguments = {
            key.partition(".")[2]: value
            for key, value in flatten(config).items()
            if key.startswith(f"{group}.")
        }
        target = arguments.pop("_target_", "")
        given = few([f"{k}={v}" for k, v in arguments.items()], _SHOWN)
        yield group, f"`{target}`: {given}" if given else f"`{target}`"
    for key in ("seed", "train.steps", "data.batch_size", "precision.compute"):
        yield key, _leaf(config, key)


def _numbers(metrics: Mapping[str, Any]) -> Iterator[tuple]:
    final, best = metrics["final"] or {}, metrics["best"] or {}
    for key, value in final.items():
        if not key.startswith("time/"):
            found = best.get(key) or {}
            yield key, value, found.get("value", ""), found.get("step", "")


def _digests(digest: Any) -> list[str]:
    found = flatten(digest) if isinstance(digest, Mapping) else {}
    return [f"- {one_line(k)}: {one_line(v)[:200]}" for k, v in found.items()][:_SHOWN]


def _versions(facts: Mapping[str, Any]) -> list[str]:
    packages = facts.get("packages")
    found = packages if isinstance(packages, Mapping) else {}
    return [f"- {k} {one_line(found[k])}" for k in PACKAGES if found.get(k)]


def _rows(cells: Iterator[tuple]) -> Iterator[str]:
    for row in cells:
        escaped = (one_line(cell).replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(escaped)} |"


def _model(recorded: Recorded) -> list[str]:
    """The recorded overrides that decide which arrays the model has."""
    given = scrub(list(recorded.hydra.get("overrides", [])))
    keys = [re.split(r"[.@=]", text.lstrip("+~"))[0] for text in given]
    return [
        one_line(text)
        for key, text in zip(keys, given, strict=True)
        if key in _OF_THE_MODEL
    ]
