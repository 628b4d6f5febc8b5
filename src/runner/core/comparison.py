"""A call of a run, compared with what the run's reference makes of it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from runner.core import recomputation, step
from runner.core.compiling import Compiling
from runner.core.evidence import Distances, Evidence, Judge, Numbers, Seen
from runner.core.keep import Keep
from runner.core.pipeline import TrainState
from runner.core.program import Program
from runner.core.recomputation import matched
from runner.core.run import Run
from runner.core.step import Carry
from runner.errors import Refused

# Numbers that noise is made from: see `recomputation.steps`.
_NOISE = 1.7, 2.9
_NONE = np.float32(0), np.float32(0)
_LOSS = "train/loss"
# Of a step, what an optimizer's state decides.
_AFTER = "train/learning_rate", "train/update_norm"


class Comparison:
    """Computes calls again, each for one run alone, and has the difference judged.

    Args:
      program: the one that trains.
      runs: those that it trains.
      length: the most steps of a call that are computed.
      judge: decides what is a difference.
      init: returns the initial carry of a single run: see `Program.init`.
      seed: of other initial values.
      keep: for what is compiled.
    """

    def __init__(
        self,
        program: Program,
        runs: Sequence[Run],
        length: int,
        judge: Judge,
        init: Callable,
        seed: int,
        keep: Keep,
    ):
        self._program, self._runs, self._length = program, runs, length
        self._judge, self._live_init, self._seed = judge, init, seed
        self._keep, self._mesh = keep, program.mesh
        self._spec = spec = runs[0].spec
        self._parts = spec.reference(), spec.task, spec.dataset.transforms
        self._init = step.init(self._parts[0], spec.averaging)
        arguments = runs[0].init_key, np.float32(0), runs[0].values.hyperparameters
        self._shapes = jax.eval_shape(self._init, *arguments)
        self._made: dict[str, Compiling] = {}

    def prepare(self, seen: Seen) -> None:
        """Start to compile what `compare` needs for calls like this one."""
        if self._made:
            return
        before, _ = self._adapted(seen.before)
        sharding = jax.tree.map(lambda x: x.sharding, before)
        parts = self._parts
        again = step.train_step(*parts, self._spec.microbatches, self._mesh.devices)
        self._compile(
            "steps",
            recomputation.steps(again, self._length),
            self._steps_arguments(seen, before, before, _NONE),
            (sharding, None, None),
        )
        if seen.start == 0:
            self._compile("initial", self._init, self._seeded(seen), sharding)
        for split in self._spec.dataset.validations[:1]:
            data = self._evaluated(split)
            evaluate = recomputation.evaluation(
                step.eval_step(*parts), parts[1], self._program.eval_capacity
            )
            given = before, *data, self._totals, _NONE
            self._compile("evaluation", evaluate, given, None)
            outputs = recomputation.outputs(self._spec.pipeline.predict, *parts[1:])
            self._compile("outputs", outputs, (seen.before, *data), None)

    def ready(self) -> bool:
        """Whether `compare` needn't wait for the compiler."""
        return all(made.ready() for made in self._made.values())

    def compare(self, seen: Seen) -> str:
        """Compare a call with the reference's.

        Returns:
          what agrees, in words.

        Raises:
          Refused: something doesn't.
        """
        try:
            if seen.start == 0:
                self._compare_initial(seen)
            checked = self._compare_steps(seen)
            for split, live in seen.begun.items():
                self._compare_evaluation(seen, split, live)
                checked += f", {split}"
        except Refused:
            raise
        except Exception as error:
            raise Refused(
                f"verify: the run can't be computed again: {type(error).__name__}: "
                f"{error}. (verify=false trains anyway)"
            ) from error
        return checked

    def _compare_initial(self, seen: Seen) -> None:
        make = self._made["initial"].result()
        key, *rest = self._seeded(seen)
        other_key = jax.random.fold_in(key, self._seed)
        live, ours = self._adapted(seen.before)[0], make(key, *rest)
        placed = jax.tree.map(lambda x: x.sharding, seen.before)
        again = jax.device_put(self._live_init(other_key, *rest), placed)
        other_live, other = self._adapted(again)[0], make(other_key, *rest)
        if not _differ(live, other_live) and _differ(ours, other):
            self._judge.unseeded()
        if self._spec.canonical:
            for one, its in ((live, ours), (other_live, other)):
                self._judge.initial(jax.device_get(_distances(one, its)))

    def _compare_steps(self, seen: Seen) -> str:
        before, is_whole = self._adapted(seen.before)
        reaches_end = is_whole and seen.stop - seen.start <= self._length
        after = self._adapted(seen.after)[0] if reaches_end else before
        call = self._made["steps"].result()
        end, rows, distances = call(*self._steps_arguments(seen, before, after, _NONE))
        rows = jax.device_get(rows)
        count = min(seen.stop - seen.start, self._length) if is_whole else 1
        stop = seen.start + count

        def evidence(numbers: dict, other: dict, distances: Any) -> Evidence:
            found = _numbers(seen, count, numbers, other)
            if not is_whole:  # the first step's update needs the state
                found = {k: v for k, v in found.items() if k not in _AFTER}
            given = jax.device_get(distances) if reaches_end else None
            return Evidence(seen.start, stop, found, given)

        def again() -> list[Evidence]:
            found = []
            for number in _NOISE:
                noise = np.float32(number), np.float32(self._judge.rounding)
                arguments = self._steps_arguments(seen, before, end, noise)
                _, shaken, off = call(*arguments)
                found.append(evidence(_like(seen.rows, jax.device_get(shaken)), rows, off))
            return found

        self._judge.steps(evidence(seen.rows, rows, distances), again)
        if reaches_end:
            return "parameters, model state, optimizer state, rows"
        return "rows" if is_whole else "loss, metrics and gradient norm of one step"

    def _compare_evaluation(self, seen: Seen, split: str, live: dict) -> None:
        carry, data = self._adapted(seen.after)[0], self._evaluated(split)
        evaluate = self._made["evaluation"].result()
        live = _own(jax.device_get(live), seen.member, self._program.members)
        ours = jax.device_get(evaluate(carry, *data, self._totals, _NONE))

        def evidence(numbers: dict, other: dict) -> Evidence:
            at = np.array([seen.stop])
            found = {
                f"{split}/{name}": Numbers(at, np.array([x]), np.array([other[name]]))
                for name, x in numbers.items()
            }
            return Evidence(seen.start, seen.stop, found, None)

        def again() -> list[Evidence]:
            found = []
            for number in _NOISE:
                noise = np.float32(number), np.float32(self._judge.rounding)
                shaken = evaluate(carry, *data, self._totals, noise)
                found.append(evidence(jax.device_get(shaken), ours))
            return found

        self._judge.evaluation(evidence(live, ours), again)
        outputs = self._made["outputs"].result()
        once, size, mixed = outputs(seen.after, *data)
        twice = _distances(once, outputs(seen.after, *data)[0])
        mixed = Distances(mixed, size, size)
        self._judge.outputs(seen.stop, *jax.device_get((twice, mixed)))

    def _steps_arguments(self, seen: Seen, before: Any, after: Any, noise: Any) -> tuple:
        run, start = self._runs[seen.member], seen.start
        count = min(seen.stop - start, self._length)
        rates = run.learning_rates[start : start + count]
        rates = np.pad(rates, (0, self._length - count))
        eval_loss = jax.device_get(seen.eval_loss)
        return (
            before,
            after,
            self._program.data().train,
            self._batches(seen),
            rates,
            np.int32(start),
            np.float32(_own(eval_loss, seen.member, self._program.members)),
            run.values,
            np.int32(count),
            noise,
        )

    def _batches(self, seen: Seen) -> Any:
        """The batches of the run, of which the last ones may be copies."""
        alone = self._program.members is None
        if alone and seen.stop - seen.start == self._length:
            return seen.batches
        at = np.minimum(np.arange(self._length), seen.stop - seen.start - 1)
        sharding = self._mesh.batches if alone else self._mesh.replicated
        take = jax.jit(
            lambda x: (x if alone else x[seen.member])[at], out_shardings=sharding
        )
        return jax.tree.map(take, seen.batches)

    def _seeded(self, seen: Seen) -> tuple:
        """The arguments of a run's `init`."""
        run = self._runs[seen.member]
        return run.init_key, run.learning_rates[0], run.values.hyperparameters

    def _evaluated(self, split: str) -> tuple:
        """The columns, and the batches of the first evaluation call."""
        first = next(iter(self._program.eval_batches(split)))
        return self._program.data().eval, first

    @property
    def _totals(self) -> Any:
        totals = self._program.totals
        return _own(totals, 0, self._program.members)

    def _compile(
        self, name: str, function: Callable, arguments: tuple, shardings: Any
    ) -> None:
        key = "witness", name, self._spec.key, self._mesh.own, self._length
        jitted = jax.jit(function, out_shardings=shardings)
        shapes = jax.tree.map(_shape, arguments)
        self._made[name] = self._keep(key, lambda: Compiling(jitted, *shapes))

    def _adapted(self, carry: Carry) -> tuple[Carry, bool]:
        """A live carry in the reference's structure, and whether all of it is live.

        Raises:
          Refused: parameters or model state are not the model's.
        """
        state, wanted = carry.state, self._shapes.state
        params = matched(state.params, wanted.params)
        model_state = matched(state.model_state, wanted.model_state)
        if params is None or model_state is None:
            raise Refused(
                "verify: the pipeline's parameters and model state aren't those of its "
                "model, so it can't be checked. (verify=false trains anyway)"
            )
        opt_state = matched(state.opt_state, wanted.opt_state)
        is_whole = opt_state is not None
        if not is_whole:
            zeros = jax.tree.map(
                lambda x: np.zeros(x.shape, x.dtype), wanted.opt_state
            )
            opt_state = jax.device_put(zeros, self._mesh.replicated)
        average = carry.average
        if average is not None:
            average = matched(average, wanted.params)
        state = TrainState(params, model_state, opt_state)
        return Carry(state, average), is_whole


@jax.jit
def _distances(live: Any, other: Any) -> Distances:
    size = jax.tree.map(recomputation.norm, live)
    return Distances(recomputation.apart(live, other), size, size)


def _differ(one: Any, other: Any) -> bool:
    """Whether parameters differ."""
    found = _distances(one.state.params, other.state.params).off
    return any(off != 0 for off in jax.tree.leaves(jax.device_get(found)))


def _numbers(seen: Seen, count: int, live: dict, other: dict) -> dict[str, Numbers]:
    """The numbers of the first `count` steps; norms are those of the ends of blocks."""
    whole, found = len(live[_LOSS]), {}
    for name, values in live.items():
        block = whole // len(values)
        at = np.arange(block - 1, count, block)
        if len(at):
            found[name] = Numbers(seen.start + 1 + at, values[: len(at)], other[name][at])
    return found


def _like(rows: dict, full: dict) -> dict:
    """Rows of every step, with norms for those alone that `rows` has them for."""
    whole = len(rows[_LOSS])
    found = {}
    for name, values in rows.items():
        block = whole // len(values)
        found[name] = full[name] if block == 1 else full[name][block - 1 :: block]
    return found


def _own(tree: Any, member: int, members: int | None) -> Any:
    """One member's part of a population's host arrays."""
    return tree if members is None else jax.tree.map(lambda x: x[member], tree)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    committed = isinstance(x, jax.Array) and x.committed
    sharding = x.sharding if committed else None
    return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding)
