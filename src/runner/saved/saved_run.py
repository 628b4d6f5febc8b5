"""A run folder as a value: what it recorded, its parameters and its predictions."""

import functools
import html
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.data.transforms import transformed
from runner.errors import ConfigError, refuse_one
from runner.record.terminal import number
from runner.record.untrusted import printable, read_summary
from runner.saved.export import export
from runner.saved.record import Recorded, read
from runner.saved.state import State, find

if TYPE_CHECKING:
    import polars as pl

    from runner.core.pipeline import TrainState
    from runner.saved.model import Built


# Relative. Where other devices compute, numbers differ by less.
_ELSEWHERE = 1e-3


class SavedRun:
    """A run that has ended, or was interrupted, as its folder tells it.

    Attributes:
      folder: the run folder.
      config: the resolved configuration.
      summary: final and best values, `test/*` among the former.
    """

    def __init__(
        self,
        recorded: Recorded,
        summary: dict[str, Any],
        state: str | None,
        trust: bool,
        config_dir: Path | None,
    ):
        self.folder = recorded.source
        self.config = recorded.config
        self.summary = summary
        self._recorded = recorded
        self._asked = state
        self._trust = trust
        self._config_dir = config_dir
        self._built: dict[tuple[str, ...], Built] = {}

    def __repr__(self) -> str:
        final = self.summary.get("final") or {}
        results = [f"{k} {number(k, x)}" for k, x in final.items()]
        status = self.summary.get("status")
        return printable("\n".join([f"{self.folder}: {status}", *results]))

    def _repr_html_(self) -> str:
        """As a notebook shows it."""
        return f"<pre>{html.escape(repr(self))}</pre>"

    @functools.cached_property
    def rows(self) -> "pl.DataFrame":
        """Those of metrics.jsonl, but for time/*; null where one lacks a number."""
        import polars as pl

        return pl.DataFrame(self._recorded.rows, infer_schema_length=None, strict=False)

    @functools.cached_property
    def state(self) -> State:
        """Which state all below is of: its name and its step.

        Raises:
          ConfigError: the run hasn't kept the one that is asked for, or none.
        """
        return find(self._recorded, self.summary, self._asked)

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters that evaluations used, such as `dense_0/kernel`.

        Raises:
          ConfigError: see `arrays`.
        """
        start = "params/"
        arrays = self.arrays()
        return {k[len(start) :]: x for k, x in arrays.items() if k.startswith(start)}

    def arrays(self, data: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """All arrays of the state: `params/dense_0/kernel`, `model_state/...`.

        A checkpoint, unlike the file that a finished run leaves, is read by a model
        that is built for it.

        Args:
          data: see `evaluate`.

        Raises:
          ConfigError: the run has left no such state, it is damaged, or the model
            can't be built.
        """
        from runner.saved.model import checkpoint_arrays, file_arrays

        if "_arrays" not in vars(self):
            self._arrays = (
                file_arrays(self.folder, self.summary.get("state_sha256"))
                if self.state.checkpoint is None
                else checkpoint_arrays(self.folder, self.state, self._model(data))
            )
        return self._arrays

    def predict(self, batch: Mapping[str, Any]) -> Any:
        """The model's outputs, in evaluation mode.

        Args:
          batch: the columns of the data that the model needs, [B, ...], as they are
            before the transforms.

        Raises:
          ConfigError: a column is missing, or `batch` isn't a dict; or see `arrays`.
        """
        if not isinstance(batch, Mapping):
            raise ConfigError(
                "predict needs a dict of columns, such as {'input': images}, and got a "
                f"{type(batch).__name__}"
            )
        built, state = self._ready(())
        spec = built.run.spec
        given = {name: np.asarray(x) for name, x in batch.items()}
        odd = _odd_shapes(given, spec.dataset.train.rows(np.zeros(1, int)))
        try:
            columns = transformed(spec.dataset.transforms, given, None)
            inputs = spec.task.inputs(columns)
        except KeyError as error:
            name = error.args[0]
            if name in given or name not in spec.dataset.features:
                raise
            raise ConfigError(
                f"predict needs the column {name}, and got {', '.join(given) or 'none'}"
            ) from error
        try:
            return spec.pipeline.predict(state, inputs)
        except (TypeError, ValueError) as error:
            if not odd:
                raise
            raise ConfigError(f"predict: {odd}. {error}") from error

    def predictions(
        self, split: str | None = None, data: Sequence[str] = (), outputs: bool = True
    ) -> "pl.DataFrame":
        """A row for each example of a split: see `runner.saved.predictions`.

        Args:
          split: by default the test split, or else that for validation.
          data, outputs: as for `evaluate`; whether to include the outputs.

        Raises:
          ConfigError: see `evaluate`.
        """
        from runner.saved.predictions import predictions

        built, state = self._ready(data)
        evaluated = built.run.spec.dataset.evaluated
        if split is None:
            split = next((n for n in ("test", "validation") if n in evaluated), "train")
        return predictions(built, state, split, outputs)

    def evaluate(
        self, split: str | None = None, data: Sequence[str] = ()
    ) -> dict[str, float]:
        """The loss and the metrics, as training evaluates them: `test/loss` and so on.

        Args:
          split: a split of the data; by default all but the training split.
          data: overrides, for other data: `["data=digits", "data.batch_size=32"]`.

        Raises:
          ConfigError: there are no such data, or the model can't be used on them; or
            see `arrays`.
        """
        from runner.saved.model import metrics

        built, state = self._ready(data)
        splits = [*built.run.spec.dataset.evaluated] if split is None else [split]
        if not splits:
            raise ConfigError(
                f"data={built.run.spec.dataset.name} has the split train alone: "
                "--split train evaluates that"
            )
        found = metrics(built, state, splits)
        if not data and self.state.checkpoint is None:
            self._warn_of_others(found)
        return found

    def _warn_of_others(self, found: Mapping[str, float]) -> None:
        """Say where the numbers of the end aren't those that the run has recorded."""
        final = self.summary.get("final")
        for key, now in found.items():
            then = final.get(key) if isinstance(final, Mapping) else None
            if not (key.startswith("test") and isinstance(then, int | float)):
                continue
            if not np.isclose(now, then, _ELSEWHERE, 0, equal_nan=True):
                print(
                    f"warning: {key} is {number(key, now)}, and was "
                    f"{number(key, then)} when the run ended: its code, its data or "
                    "what computes isn't the same",
                    file=sys.stderr,
                )

    def export(self, folder: str | Path) -> Path:
        """Write the state, its records and a model card: see `runner.saved.export`.

        Args:
          folder: a new one.

        Raises:
          ConfigError: it isn't new or can't be written; or see `arrays`.
        """
        given = self._recorded, self.summary, self.state, self.arrays()
        return export(*given, folder, self._config_dir)

    def examples(self, split: str, data: Sequence[str] = ()) -> int:
        """How many examples a split has."""
        return len(self._model(data).run.spec.dataset.splits[split])

    def _model(self, data: Sequence[str]) -> "Built":
        from runner.saved.model import rebuilt

        refuse_one("data", data)
        key = tuple(data)
        if key not in self._built:
            self._built[key] = rebuilt(
                self._recorded, data, self._trust, self._config_dir
            )
        return self._built[key]

    def _ready(self, data: Sequence[str]) -> "tuple[Built, TrainState]":
        from runner.saved.model import state_of

        where = self.state  # first: nothing is built for a state that isn't there
        built = self._model(data)
        what = f"run folder {self.folder}, state {where}"
        return built, state_of(built, self.arrays(data), what)


def load_run(
    folder: str | Path,
    *,
    state: str | int | None = None,
    trust: bool = False,
    config_dir: str | Path | None = None,
) -> SavedRun:
    """Read the run in `folder`. Nothing that it names is imported before it is used.

    Args:
      folder: a run folder.
      state: "best", "last" or a step; by default the one that it ended with.
      trust: let any function be imported that the configuration names.
      config_dir: your own YAML files, which say too what may be imported.

    Raises:
      ConfigError: it isn't the folder of a run.
    """
    path = Path(folder)
    recorded = read(path)
    if not recorded.source.is_dir():  # W&B's file
        raise ConfigError(f"{recorded.source} holds no model: name the run folder")
    try:
        summary = read_summary(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"run folder {path}: {error}") from error
    asked = None if state is None else str(state)
    own = None if config_dir is None else Path(config_dir)
    return SavedRun(recorded, summary, asked, trust, own)


def _odd_shapes(given: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]) -> str:
    """Which columns have examples of other sizes than the data, as text.

    A model may take them, as one of tokens takes fewer of these.

    Raises:
      ConfigError: there are no examples, or a column has other dimensions.
    """
    odd = []
    for name in sorted(given.keys() & rows.keys()):
        x, sizes = given[name], rows[name].shape[1:]
        wanted = ", ".join(["B", *map(str, sizes)])
        told = f"{name} has shape {list(x.shape)}, and in the data [{wanted}]"
        if x.ndim != 1 + len(sizes) or not len(x):
            raise ConfigError(f"predict: {told}, where B is 1 for a single example")
        if x.shape[1:] != sizes:
            odd.append(told)
    return "; ".join(odd)
