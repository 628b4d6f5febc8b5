"""Callbacks: functions that look at a run after its evaluations and leave files."""

import contextlib
import functools
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from omegaconf import DictConfig

from runner.config.instantiate import function
from runner.core.pipeline import TrainState
from runner.core.program_spec import ProgramSpec
from runner.data.transforms import transformed
from runner.errors import ConfigError
from runner.job.session import Session
from runner.record.files import FILES, write_bytes, writing

# What a callback may take, by the names of its parameters: docs/hooks.md.
GIVEN = (
    "step", "metrics", "parameters", "predictions", "predict", "decode", "seed",
)  # fmt: skip
_NAME = re.compile(r"\w[\w.-]*")


class Callbacks:
    """Those of one run. Called with the row of an evaluation and the state after it.

    They get copies on the host, while the devices go on to train, and compute what they
    predict with on the first device of this process. So nothing of the training depends
    on them.

    Args:
      cfg: the configuration of the run.
      names: of those that it has.
      spec: of the run.
      session: keeps what is compiled for the predictions.
      folder: the run folder.

    Raises:
      ConfigError: one needs an argument that nobody gives it, or none is ever called.
    """

    def __init__(
        self,
        cfg: DictConfig,
        names: list[str],
        spec: ProgramSpec,
        session: Session,
        folder: Path,
    ):
        self._functions = {n: function(cfg, f"callbacks.{n}", GIVEN) for n in names}
        self._dataset, self._folder, self._seed = spec.dataset, folder, cfg.seed
        self._predict = spec.pipeline.predict
        self._outputs = session.keep(("outputs", spec.key), lambda: _outputs(spec))
        if names and not spec.dataset.validations:
            raise ConfigError(
                f"callbacks.{names[0]} is called after evaluations, and data="
                f"{spec.dataset.name} have no validation split"
            )

    def __bool__(self) -> bool:
        return bool(self._functions)

    def __call__(self, row: Mapping[str, Any], ended: Mapping[str, Any]) -> None:
        """Call each, and write the files that it returns.

        Args:
          row: that of the evaluation.
          ended: `params` and `model_state`, as NumPy arrays.

        Raises:
          ConfigError: one returned something else than files.
          Unwritable: a file can't be written.
          whatever a callback raises.
        """
        state = TrainState(ended["params"], ended["model_state"], ())
        placed = functools.cache(lambda: jax.device_put(state))  # once, if at all
        given = {
            "step": row["step"],
            "metrics": dict(row),
            "parameters": state.params,
            "predictions": lambda count=None: self._predictions(placed(), count),
            "predict": lambda inputs: self._predicted(placed(), inputs),
            "decode": self._dataset.decode,
            "seed": self._seed,
        }
        for name, called in self._functions.items():
            try:
                files = _files(called(**given))
            except ConfigError as error:
                raise ConfigError(f"callbacks.{name}: {error}") from error
            for ending, data in files.items():
                path = self._folder / FILES / name / f"{row['step']}.{ending}"
                with writing(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_bytes(path, data)

    def _predicted(self, state: TrainState, inputs: Any) -> Any:
        """The outputs for `inputs`, a tree as the model returns it.

        Raises:
          ConfigError: the model can't take them.
        """
        try:
            return jax.tree.map(np.asarray, self._predict(state, inputs))
        except (TypeError, ValueError) as error:
            shapes = jax.tree.map(np.shape, inputs)
            raise ConfigError(
                f"predict, with inputs of {shapes}: {type(error).__name__}: {error}"
            ) from error

    def _predictions(self, state: TrainState, count: int | None) -> tuple[dict, Any]:
        """The first `count` examples of the validation split, and their outputs."""
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ConfigError(
                f"predictions({count}): it takes a whole number of at least 1, or None"
            )
        split = self._dataset.splits[self._dataset.validations[0]]
        count = len(split) if count is None else min(count, len(split))
        size = min(count, self._dataset.batch_size)
        parts = []
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            found = jax.device_get(self._outputs(state, split.rows(rows)))
            parts.append(jax.tree.map(lambda x, n=count - start: x[:n], found))
        return jax.tree.map(lambda *each: np.concatenate(each), *parts)


def _outputs(spec: ProgramSpec) -> Callable:
    """(state, examples) -> (batch, outputs): a batch as a task gets it, jitted."""

    def outputs(state, examples):
        batch = transformed(spec.dataset.transforms, examples, None)
        return batch, spec.pipeline.predict(state, spec.task.inputs(batch))

    return jax.jit(outputs)


def _files(returned: Any) -> dict[str, bytes]:
    """What a callback returned, as the contents of files by their endings."""
    if returned is None:
        return {}
    if isinstance(returned, Mapping):
        found = {ending: _content(ending, x) for ending, x in returned.items()}
        bad = [
            {ending: returned[ending]}
            for ending, x in found.items()
            if x is None or not _NAME.fullmatch(ending)
        ]
    else:
        found, bad = {}, [returned]
    if bad:
        raise ConfigError(
            f"it returned {bad[0]!r:.80}, and must return a dict from endings, such "
            'as "txt" and "png", to text, bytes or images of Pillow'
        )
    return {ending: data for ending, data in found.items() if data is not None}


def _content(ending: Any, value: Any) -> bytes | None:
    if not isinstance(ending, str):
        return None
    if isinstance(value, str):
        return value.encode(errors="backslashreplace")
    if hasattr(value, "save"):  # an image, of which Pillow needn't be imported
        data = io.BytesIO()
        # It knows no such format, or can't write such an image in it.
        with contextlib.suppress(KeyError, ValueError, OSError):
            value.save(data, ending.rpartition(".")[2].replace("jpg", "jpeg"))
            return data.getvalue()
        return None
    return value if isinstance(value, bytes) else None
