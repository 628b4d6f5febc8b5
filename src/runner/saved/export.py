"""A model in a folder of its own: its state, its records, and a card about them."""

import math
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

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
) -> Path:
    """Write a state, which `init_from` reads, with config, metrics and provenance.

    Everything is there, or nothing.

    Args:
      summary: the run's.
      state: which of its states this is.
      arrays: those of the state, by their names.
      folder: a new one.

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
        text = card(recorded, metrics, arrays, folder)
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
) -> str:
    """The model card, in Markdown.

    Args:
      metrics: as the export has them.
      folder: that of the export.
    """
    config, facts = scrub(dict(recorded.config)), scrub(dict(recorded.provenance))
    parameters = {k: x for k, x in arrays.items() if k.startswith("params/")}
    count = sum(math.prod(x.shape) for x in parameters.values())
    first = next(iter(parameters), next(iter(arrays)))
    step = metrics["state"]["step"]
    kind = {"best": "the best state", "last": "the last state"}
    what = kind.get(metrics["state"]["name"], "the state")
    lines = [
        f"# {_name(config)}",
        "",
        f"{count:,} parameters: {what} of a run, after {step} of "
        f"{_leaf(config, 'train.steps')} steps. The run's status is "
        f"{metrics['status']}.",
        "",
        "| trained with | |",
        "|---|---|",
        *_rows(_trained(config, recorded.hydra)),
        "",
        "| metric | final | best | at step |",
        "|---|---|---|---|",
        *_rows(_numbers(metrics)),
        "",
        "## Data",
        "",
        f"Digests of `data={_choice(recorded.hydra, 'data')}`, as the run found them:",
        "",
        *_digests(facts.get("data_digest")),
        "",
        "## Versions",
        "",
        *(f"- {name} {version}" for name, version in _versions(facts)),
        "",
        "## Loading it",
        "",
        "```python",
        "from safetensors.numpy import load_file",
        "",
        f"arrays = load_file({str(folder / STATE)!r})",
        f"print(arrays[{first!r}].shape)  # {arrays[first].shape}",
        "```",
        "",
        "The same model, trained on from these values:",
        "",
        "```sh",
        shlex.join(
            ["python", "-m", "runner", f"init_from={folder}", *_model(recorded)]
        ),
        "```",
        "",
        f"`config.json` has the whole configuration, `{EXPORTED}` the numbers, "
        "`provenance.json` where they are from.",
    ]
    return "\n".join(map(str, lines)) + "\n"


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


def _versions(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    packages = facts.get("packages")
    if isinstance(packages, Mapping):
        yield from ((k, one_line(packages[k])) for k in PACKAGES if packages.get(k))


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
