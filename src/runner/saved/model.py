"""The model of a saved run, built again, and what it gives on data."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import jax
import numpy as np
from omegaconf import DictConfig

from runner.config import conf
from runner.core.evaluation import compile_evaluation
from runner.core.mesh import devices
from runner.core.pipeline import TrainState
from runner.core.placement import Axes
from runner.core.program import capacities
from runner.core.program_spec import ProgramSpec
from runner.core.run import Run
from runner.core.shapes import carry_shapes, start_shapes, step_jaxpr
from runner.core.snapshot import on_host
from runner.core.step import Carry, evaluated_params
from runner.core.train import evaluate
from runner.data.dataset import Feature
from runner.errors import ConfigError, did_you_mean, few
from runner.job import restore
from runner.job.build import build
from runner.job.session import Session
from runner.record.files import STATE
from runner.record.loaded import edited
from runner.record.state import arrays_in, arrays_of, restored
from runner.record.untrusted import printable
from runner.saved import configuration
from runner.saved.data import check_alike, misfit, with_data
from runner.saved.machine import set_up
from runner.saved.record import Recorded
from runner.saved.state import State
from runner.saved.trusted import check_targets
from runner.settings import HOOKS

_TRUST = (
    "--trust, or load_run(..., trust=True), imports whatever it names; --config-dir "
    "adds your own YAML files"
)


class Built(NamedTuple):
    """A run that is built again, for its model and its data alone.

    Attributes:
      run: with its data, or others.
      session: keeps what is made for it.
      own: the columns of the run's own data, if its data are others and these known.
    """

    run: Run
    session: Session
    own: Mapping[str, Feature]

    @property
    def shapes(self) -> TrainState:
        """Those of the state, without the optimizer's."""
        state = carry_shapes(self.run.spec, self.run.values).state
        return state._replace(opt_state=())


def rebuilt(
    recorded: Recorded, data: Sequence[str], trust: bool, config_dir: Path | None
) -> Built:
    """Build the run again.

    Args:
      data: overrides of `data`.
      trust: import whatever the record names.
      config_dir: a folder of the user's own YAML files, besides conf/.

    Raises:
      ConfigError: the record names functions that conf/ doesn't, or can't be built.
    """
    # A run's hooks aren't called, so they need be neither trusted nor installed.
    config = {**recorded.config, **{key: {} for key in HOOKS}}
    recorded = recorded._replace(config=config)
    if not trust:
        check_targets(recorded, config_dir, _TRUST)
    conf.register()
    cfg = configuration.typed(recorded, _today(recorded, config_dir))
    _for_its_model(cfg)
    _set_up(cfg, recorded)
    session, own = Session(), {}
    if data:
        there, cfg = cfg, with_data(cfg, data, config_dir)
        digest = recorded.provenance.get("data_digest")
        own = check_alike(cfg, there, session, " ".join(data), digest)
    run = build(cfg, session).run
    if names := edited(recorded.provenance):
        told = printable(f"warning: edited since the run: {few(names)}")
        print(told, file=sys.stderr)
    return Built(run, session, own)


def _today(recorded: Recorded, config_dir: Path | None) -> DictConfig | None:
    """What has the settings that are newer than the record."""
    try:
        return configuration.recompose(recorded, config_dir)
    except ConfigError:
        return None


def _for_its_model(cfg: DictConfig) -> None:
    """Let nothing in `cfg` be in the way that is about training alone."""
    cfg.verify = False
    cfg.validation = "validation"  # splits by the names that the data have
    cfg.objective = "train/loss"
    cfg.init_from = cfg.init_exclude = cfg.init_rename = None
    cfg.checkpoint.best = False
    cfg.train.stop.value = cfg.train.stop.patience = None
    cfg.train.epochs = cfg.train.steps_per_epoch = cfg.train.limit_batches = None


def _set_up(cfg: DictConfig, recorded: Recorded) -> None:
    """As the run had it, or on one device where there are fewer than it had."""
    count = recorded.provenance.get("device_count")
    known = dict(recorded.provenance)
    if isinstance(count, int) and count > len(devices()):
        known["device_count"] = 1
        for axis in Axes._fields:
            cfg.mesh[axis] = 1
    set_up(cfg, known)


def checkpoint_arrays(folder: Path, state: State, built: Built) -> dict[str, Any]:
    """The arrays of a checkpoint, by names such as `params/dense_0/kernel`.

    Raises:
      ConfigError: it is damaged, or those of another model.
    """
    run = built.run
    target = start_shapes(run.spec, run.values)
    saved = folder / restore.FOLDER
    check = restore.checks_rows(folder / "metrics.jsonl")
    start = restore.newest(saved, state.step, target, run.spec.description, check)
    carry = start.snapshot.carry
    both = {"params": evaluated_params(carry), "model_state": carry.state.model_state}
    return arrays_of(on_host(both))


def file_arrays(folder: Path, own: str | None = None) -> dict[str, np.ndarray]:
    """The arrays in the state that a finished run has left in its folder.

    Args:
      own: its checksum, as the run has recorded it.

    Raises:
      ConfigError: it is damaged, or another run's.
    """
    path = folder / STATE
    try:
        return arrays_in(path, path.read_bytes(), own=own)
    except (OSError, ValueError) as error:
        raise ConfigError(f"run folder {folder}: {error}") from error


def state_of(built: Built, arrays: dict[str, np.ndarray], what: str) -> TrainState:
    """`arrays` as the state of the model.

    Args:
      what: they are from, for messages.

    Raises:
      ConfigError: the model has others; names the columns of the data that differ.
    """
    shapes = built.shapes
    like = {"params": shapes.params, "model_state": shapes.model_state}
    try:
        found = restored(like, arrays)
    except ValueError as error:
        why = misfit(built.run.spec.dataset.features, dict(built.own))
        raise ConfigError(f"{what}: {error}{why and f': {why}'}") from error
    return TrainState(found["params"], found["model_state"], ())


def metrics(built: Built, state: TrainState, splits: Sequence[str]) -> dict[str, float]:
    """The loss and the metrics of `splits`, as training evaluates them.

    Returns:
      numbers such as `test/loss`.
    """
    spec, values = built.run.spec, built.run.values
    # An evaluation takes the parameters' average, if there is one.
    carry = Carry(state._replace(params=()), state.params)
    shapes = jax.eval_shape(lambda: carry)
    placed = jax.device_put(carry, spec.mesh.state(shapes))
    _, capacity = capacities(spec, step_jaxpr(spec, values), None)
    numbers: dict[str, float] = {}
    for split in splits:
        own, name = evaluated_as(spec, split)
        evaluation = compile_evaluation(own, shapes, capacity, None, built.session.keep)
        found, _ = evaluate(evaluation, placed, [name])
        for key, value in on_host(found).items():
            numbers[split + key.removeprefix(name)] = float(value)
    return numbers


def evaluated_as(spec: ProgramSpec, split: str) -> tuple[ProgramSpec, str]:
    """A program that evaluates `split`, and the name of it there.

    Raises:
      ConfigError: the data have no such split.
    """
    dataset = spec.dataset
    if split not in dataset.splits:
        raise ConfigError(
            f"--split {quote(split)}: data={dataset.name} has no such split; it has "
            f"{few(dataset.splits)}.{did_you_mean(split, dataset.splits)}"
        )
    if split != "train":
        return spec, split
    alone = {"train": dataset.train, "validation": dataset.train}
    return spec._replace(
        dataset=dataclasses.replace(dataset, splits=alone),
        description=spec.description | {"evaluated": split},
    ), "validation"
