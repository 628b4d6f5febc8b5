"""`python -m runner.parity`: train in each framework and compare each step.

They start from the same parameters and get the same batches, so any difference comes
from the framework: in practice rounding, or nothing at all.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from runner.config import conf
from runner.config.explain import explain
from runner.core import feed, step
from runner.core.run import Run
from runner.errors import ConfigError
from runner.job import determinism
from runner.job.build import build
from runner.job.session import Session
from runner.models.model import MissingForm
from runner.record import compiled
from runner.record.console import console, print_table

# Those that the model has a form for; the others are compared with the first of them.
FRAMEWORKS = ("jax", "linen", "nnx")
MEASURES = ("loss", "grad", "params")
PLATEAU = "reduce_on_plateau"


class Trajectory(NamedTuple):
    """The losses, gradient norms and parameters of each training step.

    Attributes:
      loss, grad_norm: float32 [steps].
      params: the path of each parameter, with its values as an array [steps, ...].
      initial: likewise before the first step, without the dimension of the steps.
    """

    loss: np.ndarray
    grad_norm: np.ndarray
    params: dict[str, np.ndarray]
    initial: Mapping[str, np.ndarray] = {}


class Difference(NamedTuple):
    """The largest relative differences from the reference at each step.

    Attributes:
      loss, grad_norm, params: float64 [steps]; a parameter's is relative to the largest
        absolute value in it.
      worst: the path of the parameter that differs most at each step.
      initial: the largest relative difference of a parameter before the first step.
    """

    loss: np.ndarray
    grad_norm: np.ndarray
    params: np.ndarray
    worst: list[str]
    initial: float = 0.0

    @property
    def largest(self) -> np.ndarray:
        """The largest of the three, float64 [steps]."""
        return np.max([self.loss, self.grad_norm, self.params], axis=0)


def main(argv: Sequence[str] | None = None) -> None:
    """Exit with status 0 if all frameworks agree, 1 if not or after an error."""
    arguments = _parser().parse_args(argv)
    conf.register()
    try:
        with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
            agree = _compare_all(arguments)
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {explain(error)}")
    sys.exit(0 if agree else 1)


def trajectory(run: Run, steps: int, train_step: Any) -> Trajectory:
    """Take the first `steps` steps of `run` with `train_step`, from `jitted`."""
    spec, values = run.spec, run.values
    carry = spec.init(run.init_key, run.learning_rates[0], values.hyperparameters)
    columns = feed.device_data(spec.dataset, spec.mesh).train
    batches = feed.TrainFeed(spec.dataset, [run.order], spec.mesh, start=0)
    initial = jax.device_get(carry.state.params)
    losses, norms, params = [], [], []
    for k in range(steps):
        carry, rows = train_step(
            carry, columns, batches.take(1), run.learning_rates[k : k + 1],
            np.int32(k), np.float32(np.inf), values,
        )  # fmt: skip
        losses.append(rows["train/loss"][0])
        norms.append(rows["train/grad_norm"][0])
        params.append(jax.device_get(carry.state.params))
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *params)
    return Trajectory(
        np.array(losses), np.array(norms), _named(stacked), _named(initial)
    )


def _named(params: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree.leaves_with_path(params)
    simple = {"simple": True, "separator": "/"}
    return {jax.tree_util.keystr(path, **simple): leaf for path, leaf in leaves}


def jitted(run: Run) -> Any:
    """The training step of `run`, for `trajectory`."""
    spec = run.spec
    one = step.train_step(
        spec.pipeline, spec.task, spec.dataset.transforms, spec.microbatches
    )
    return jax.jit(step.train_call(one, 1, 1))


def compare(
    overrides: Sequence[str], schedule_names: Iterable[str], steps: int
) -> Iterator[tuple[str, str, dict[str, Difference]]]:
    """For each schedule, the first framework, and how far the others are from it.

    Schedules differ in their learning rates only, so all but the plateau's share what
    is built and compiled.

    Raises:
      ConfigError: the model has a form for only one of them.
    """
    shared: dict[tuple[str, bool], tuple[Run, Any] | None] = {}
    for name in schedule_names:
        chosen = [*overrides, f"schedule={name}"] if name else list(overrides)
        plateau, rates = name == PLATEAU, None
        ran: dict[str, Trajectory] = {}
        for framework in FRAMEWORKS:
            key = framework, plateau
            if key not in shared or rates is None:
                run = _built([*chosen, f"framework={framework}"], steps)
                shared.setdefault(key, run and (run, jitted(run)))
                rates = run.learning_rates if run and rates is None else rates
            if (built := shared[key]) and rates is not None:
                run = built[0]._replace(learning_rates=rates)
                ran[framework] = trajectory(run, steps, built[1])
        (first, reference), *others = ran.items()
        if not others:
            raise ConfigError(
                f"this model has one form, {first}, and so there is nothing to compare"
            )
        yield name, first, {f: difference(one, reference) for f, one in others}


def difference(ours: Trajectory, reference: Trajectory) -> Difference:
    """The difference of `ours` from `reference`.

    Raises:
      ConfigError: their parameters have different paths.
    """
    if set(ours.params) != set(reference.params):
        odd = sorted(set(ours.params) ^ set(reference.params))
        raise ConfigError(f"the frameworks' parameters differ in {', '.join(odd)}")
    steps = len(ours.loss)
    by_path = {
        path: [_relative(ours.params[path][k], value[k]) for k in range(steps)]
        for path, value in reference.params.items()
    }
    names = list(by_path)
    table = np.array(list(by_path.values()))
    return Difference(
        np.array(list(map(_relative, ours.loss, reference.loss))),
        np.array(list(map(_relative, ours.grad_norm, reference.grad_norm))),
        table.max(axis=0),
        [names[i] for i in table.argmax(axis=0)],
        max(
            (_relative(ours.initial[k], v) for k, v in reference.initial.items()),
            default=0.0,
        ),
    )


def _relative(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if np.array_equal(a, b, equal_nan=True):
        return 0.0
    off = np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30)
    return float(off) if np.isfinite(off) else np.inf


def _built(overrides: Sequence[str], steps: int) -> Run | None:
    """The run, or None if its model can't run in its framework."""
    cfg = compose(
        "config",
        ["train.epochs=null", f"train.steps={steps}", "verify=false", *overrides],
    )
    determinism.set_up(cfg.deterministic)
    compiled.set_up(cfg.compilation_cache)
    try:
        return build(cfg, Session()).run
    except MissingForm:
        return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runner.parity",
        description="Train in pure JAX, flax linen and flax nnx from the same initial "
        "parameters on the same batches, and print how far they differ. Exit status: "
        "0, or 1 if they differ by more than the tolerance.",
        epilog="example: python -m runner.parity model=cnn optimizer=adamw",
    )
    parser.add_argument("overrides", nargs="*", help="as for python -m runner")
    parser.add_argument(
        "--config-dir", type=Path, help="a folder of your own YAML files"
    )
    parser.add_argument("--steps", type=int, default=20, help="default 20")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-5,
        help="largest relative difference of loss, gradient norm and parameters at "
        "any step; default 1e-5",
    )
    parser.add_argument(
        "--all", action="store_true", help="every optimizer with every schedule"
    )
    return parser


def _compare_all(arguments: argparse.Namespace) -> bool:
    steps, tolerance = arguments.steps, arguments.tolerance
    own = arguments.overrides + _search_path(arguments.config_dir)
    if not arguments.all:
        ((_, first, found),) = compare(own, [""], steps)
        _print_table(
            f"largest relative difference from {first}",
            "step",
            [(str(k + 1), found, slice(k, k + 1)) for k in range(steps)],
        )
        return _report("", first, found, tolerance)
    agree = True
    print("Largest relative difference between frameworks at any step")
    for optimizer in _options("optimizer"):
        overrides = [*own, f"optimizer={optimizer}"]
        names = [s for s in _options("schedule") if s != PLATEAU]
        rows = []
        for schedules in (names, [PLATEAU]):
            try:
                rows.extend(compare(overrides, schedules, steps))
            except ConfigError as error:  # this pair can't be combined
                print(f"optimizer={optimizer} schedule={schedules[0]}: {error}")
        table = [(schedule, found, slice(None)) for schedule, _, found in rows]
        _print_table(f"optimizer={optimizer}", "schedule", table)
        for schedule, first, found in rows:
            name = f"optimizer={optimizer} schedule={schedule}: "
            agree &= _report(name, first, found, tolerance)
    print("All agree" if agree else "Not all agree", f"within {tolerance:g}.")
    return agree


def _search_path(folder: Path | None) -> list[str]:
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--config-dir {folder} is not a folder")
    return [] if folder is None else conf.search_path(folder)


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf.conf_dir() / group).glob("*.yaml"))


def _print_table(
    title: str, first: str, rows: Sequence[tuple[str, dict[str, Difference], slice]]
) -> None:
    """Print the largest differences in a slice of the steps, one row for each."""
    frameworks = rows[0][1] if rows else ()
    header = [first, *(f"{f} {what}" for f in frameworks for what in MEASURES)]
    cells = [
        [name, *(f"{v[steps].max():.1e}" for d in found.values() for v in d[:3])]
        for name, found, steps in rows
    ]
    print_table(header, cells, console(), title=title, right=slice(1, None))


def _report(
    name: str, first: str, differences: dict[str, Difference], tolerance: float
) -> bool:
    """Print where each framework exceeds the tolerance; True if none does."""
    agree = True
    for framework, d in differences.items():
        past = np.flatnonzero(d.largest > tolerance)
        if past.size:
            agree = False
            k = past[0]
            starts = np.flatnonzero(d.largest > 0)[0]
            print(
                f"{name}{framework} differs from {first} by {d.largest[k]:.1e} "
                f"at step {k + 1}, most in {d.worst[k]}; the difference starts at step "
                f"{starts + 1}, in {d.worst[starts]}"
            )
            if d.initial > 0:
                print(
                    f"{name}{framework} and {first} start from different values: give "
                    "the model an `init`, which they then share"
                )
        elif not name:
            largest = d.largest.max()
            equal = "equal bit for bit" if not largest else f"within {largest:.1e}"
            print(f"{framework} and {first}: {equal} over {len(d.loss)} steps")
    return agree


if __name__ == "__main__":
    main()
