"""Runs of one configuration in every framework that its model has a form for."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from hydra import compose
from omegaconf import DictConfig

from runner.core import feed
from runner.core.run import Run
from runner.core.step import training_batch
from runner.errors import ConfigError
from runner.job import determinism
from runner.job.build import build
from runner.job.session import Session
from runner.models.model import MissingForm, Model
from runner.parity.form import Form
from runner.parity.ported import compare_port
from runner.parity.steps import Difference, differences, jitted, tolerance
from runner.record import compiled

# Those that the model has a form for; the others are compared with the first of them.
FRAMEWORKS = ("jax", "linen", "nnx")
PLATEAU = "reduce_on_plateau"


class Compared(NamedTuple):
    """The frameworks, compared.

    Attributes:
      first: the framework that the others are compared with.
      differences: of the others.
      tolerance: what rounding may make of one step.
      messages: of a model without canonical initial values, for each of the others,
        what differs; None if it has them.
    """

    first: str
    differences: dict[str, Difference]
    tolerance: float
    messages: dict[str, list[str]] | None


class _Built(NamedTuple):
    """A run in one framework, its model, and what steps of runs like it share."""

    run: Run
    model: Model
    shared: Any


class _Models(Session):
    """Remembers the model that it has made.

    Args:
      lend: initial values for a form of pure JAX, which has none of its own.
    """

    def __init__(self, lend: Callable | None = None):
        super().__init__()
        self.model, self._lend = Model(), lend

    def made(self, cfg: DictConfig, group: str, **given: Any) -> Any:
        made = super().made(cfg, group, **given)
        if group == "model":
            self.model = made
            if made.init is None and self._lend:
                return made._replace(init=self._lend)
        return made


def compare(
    overrides: Sequence[str],
    schedule: str,
    steps: int,
    allowed: float | None,
    kept: dict[tuple, _Built | None],
) -> Compared:
    """How far the frameworks are from the first.

    Args:
      overrides: of the configuration.
      schedule: its name; empty for the one that the overrides choose.
      steps: how many to take.
      allowed: the largest relative difference; None for what rounding explains.
      kept: what is built and compiled, for calls with other schedules. They differ in
        their learning rates only, but for the plateau's.

    Raises:
      ConfigError: the model has a form for only one of them, or their states differ.
    """
    chosen = [*overrides, f"schedule={schedule}"] if schedule else list(overrides)
    rates, built = None, {}
    for framework in (*FRAMEWORKS, "jax"):  # the last with another form's values
        lent = dict(built) if framework == "jax" else {}
        if lent and ("jax" in lent or not _lacks_values(lent)):
            continue
        key = framework, schedule == PLATEAU, bool(lent)
        if key not in kept or rates is None:
            given = list(chosen)
            if built:  # all with the same form of convolutions
                convolution = next(iter(built.values())).run.choice.convolution
                given.append(f"train.convolution={convolution}")
            one = _built(given, framework, steps, lent)
            kept.setdefault(key, one)
            rates = one.run.learning_rates if one and rates is None else rates
        if (one := kept[key]) and rates is not None:
            own = one.run._replace(learning_rates=rates)
            built[framework] = one._replace(run=own)
    return _compared(built, steps, allowed)


def _lacks_values(built: dict[str, _Built]) -> bool:
    """Whether there is a form of pure JAX that needs the values of another."""
    model = next(iter(built.values())).model
    return model.init is None and model.jax is not None


def _compared(built: dict[str, _Built], steps: int, allowed: float | None) -> Compared:
    first, *others = built or ["jax, without initial values"]
    if not others:
        raise ConfigError(
            f"this model has one form, {first}, and so there is nothing to compare"
        )
    one = built[first]
    if allowed is None:
        allowed = tolerance(one.run.config["precision"], jax.default_backend())
    if one.model.init is not None:
        pairs = {name: (each.run, each.shared) for name, each in built.items()}
        return Compared(first, differences(pairs, steps), allowed, None)
    batches = _batches(one.run, steps)
    found = {
        other: compare_port(
            one.shared, built[other].shared, one.run.init_key, batches,
            one.run.learning_rates, allowed,
        )
        for other in others
    }  # fmt: skip
    known = {k: v.difference for k, v in found.items() if v.difference is not None}
    messages = {
        k: [*v.messages, v.note] if v.messages and v.note else v.messages
        for k, v in found.items()
    }
    return Compared(first, known, allowed, messages)


def _batches(run: Run, steps: int) -> list[dict[str, Any]]:
    """The batch of each step, after its transforms."""
    spec = run.spec
    columns = feed.device_data(spec.dataset, spec.mesh).train
    batches = feed.TrainFeed(spec.dataset, [run.order], spec.mesh, start=0)

    def batch(k: int) -> dict[str, Any]:
        sent = {name: x[0] for name, x in batches.take(1).items()}
        key = jax.random.fold_in(run.values.key, k)
        made = training_batch(spec.dataset.transforms, feed.batch(columns, sent), key)
        return jax.device_get(made)

    return [batch(k) for k in range(steps)]


def _built(
    overrides: Sequence[str], framework: str, steps: int, lent: dict[str, _Built]
) -> _Built | None:
    """The run in a framework, or None if its model can't run in it.

    Args:
      overrides: of the configuration.
      framework: its name.
      steps: its length.
      lent: runs of which the first gives initial values, by their paths, to a form of
        pure JAX without its own; may be empty.
    """
    length = "train.epochs=null", f"train.steps={steps}"
    chosen = f"framework={framework}"
    cfg = compose("config", [*length, "verify=false", *overrides, chosen])
    determinism.set_up(cfg.deterministic)
    compiled.set_up(cfg.compilation_cache)
    session = _Models(_values_of(lent))
    try:
        run = build(cfg, session).run
    except MissingForm:
        return None
    except KeyError as error:
        if not lent:
            raise
        raise ConfigError(
            f"the model's jax form reads {error}, which its {next(iter(lent))} form "
            "doesn't have: without an `init` it gets that one's parameters"
        ) from error
    is_port = session.model.init is None
    return _Built(run, session.model, _form(framework, run) if is_port else jitted(run))


def _values_of(others: dict[str, _Built]) -> Callable | None:
    """Initial values of the first of `others`, as a function of a key."""
    if not others:
        return None
    run = next(iter(others.values())).run

    def init(key: jax.Array) -> tuple[Any, Any]:
        rate, numbers = run.learning_rates[0], run.values.hyperparameters
        state = run.spec.pipeline.init(key, rate, numbers)
        return state.params, state.model_state.get("batch_stats", state.model_state)

    return init


def _form(framework: str, run: Run) -> Form:
    spec, numbers = run.spec, run.values.hyperparameters

    def init(key: jax.Array) -> Any:
        return spec.init(key, run.learning_rates[0], numbers).state

    return Form(framework, spec.pipeline, init, spec.task, run.values)
