"""A run folder as a value: what it recorded, its parameters and its predictions."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runner.core.pipeline import TrainState
from runner.core.program import carry_shapes
from runner.core.run import Run
from runner.data.transforms import transformed
from runner.errors import ConfigError
from runner.job.build import build
from runner.job.session import Session
from runner.record.state import load_state, restored
from runner.record.untrusted import read_foreign
from runner.saved import configuration
from runner.saved.record import Recorded, read
from runner.saved.trusted import check_targets


class SavedRun:
    """A run that has ended, as its folder tells it.

    Attributes:
      folder: the run folder.
      config: the resolved configuration.
      rows: the rows of metrics.jsonl.
      summary: final and best values, `test/*` among the former.
    """

    def __init__(self, recorded: Recorded, summary: dict[str, Any], trust: bool):
        self.folder = recorded.source
        self.config = recorded.config
        self.rows = recorded.rows
        self.summary = summary
        self._recorded = recorded
        self._trust = trust

    @functools.cached_property
    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters that evaluations used, such as `dense_0/kernel`.

        Raises:
          ConfigError: the run has left no state, or its file is damaged.
        """
        start = "params/"
        arrays = self._arrays
        return {k[len(start) :]: x for k, x in arrays.items() if k.startswith(start)}

    def predict(self, batch: Mapping[str, Any]) -> Any:
        """The model's outputs, in evaluation mode.

        Args:
          batch: the columns of the data that the model needs, [B, ...], as they are
            before the transforms.

        Raises:
          ConfigError: the run has left no state, or its configuration names functions
            that conf/ doesn't, and the run isn't trusted.
        """
        run, state = self._model
        spec = run.spec
        columns = transformed(spec.dataset.transforms, dict(batch), None)
        return spec.pipeline.predict(state, spec.task.inputs(columns))

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        try:
            return load_state(self.folder)
        except (OSError, ValueError) as error:
            raise ConfigError(f"run folder {self.folder}: {error}") from error

    @functools.cached_property
    def _model(self) -> tuple[Run, TrainState]:
        if not self._trust:
            how = "load_run(..., trust=True) imports them"
            check_targets(self._recorded, (), how)
        cfg = configuration.typed(self._recorded, None)
        cfg.verify = False
        run = build(cfg, Session()).run
        shapes = carry_shapes(run.spec, run.values).state
        like = {"params": shapes.params, "model_state": shapes.model_state}
        try:
            state = restored(like, self._arrays)
        except ValueError as error:
            raise ConfigError(f"run folder {self.folder}: {error}") from error
        return run, TrainState(state["params"], state["model_state"], ())


def load_run(folder: str | Path, *, trust: bool = False) -> SavedRun:
    """Read the run in `folder`. Nothing that it names is imported before `predict`.

    Args:
      folder: a run folder.
      trust: let `predict` import any function that the configuration names.

    Raises:
      ConfigError: it isn't the folder of a run.
    """
    path = Path(folder)
    recorded = read(path)
    try:
        summary = read_foreign(path / "summary.json")
    except (OSError, ValueError) as error:
        raise ConfigError(f"run folder {path}: {error}") from error
    return SavedRun(recorded, summary, trust)
