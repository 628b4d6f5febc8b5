"""A call of a run, compared with what the run's reference makes of it."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.checks import recomputation
from runner.checks.agreement import Agreement
from runner.checks.evidence import Distances, Evidence, Seen, Series, apart
from runner.checks.reference_calls import ReferenceCalls
from runner.core import groups as grouping
from runner.core.keep import Keep
from runner.core.memory import ran_out
from runner.core.program import Program
from runner.core.run import Run
from runner.core.step import Carry
from runner.errors import Refused
from runner.trees import by_path

NO_MEMORY = "nothing: too little memory"
# Numbers that noise is made from: see `recomputation.shaken`.
_NOISE = 1.7, 2.9
# Noise that changes some signs. Rounding seldom does, but the update is another then.
_MUCH = 1e-4
# Of a step, what an optimizer's state decides; the first is read in it.
_RATE = "train/learning_rate"
_AFTER = _RATE, "train/update_norm"


class Comparison:
    """Computes calls again, each for one run alone, and has the difference judged.

    Args:
      program: the one that trains.
      runs: those that it trains.
      most: the steps of a call that are computed, or else a whole number of blocks.
      judge: decides what is a difference.
      init: returns the initial carry of a single run: see `Program.init`.
      seed: of other initial values.
      keep: for what is compiled.
    """

    def __init__(
        self,
        program: Program,
        runs: Sequence[Run],
        most: int,
        judge: Agreement,
        init: Callable,
        seed: int,
        keep: Keep,
    ):
        self._program, self._runs, self._spec = program, runs, runs[0].spec
        self._judge, self._live_init, self._seed = judge, init, seed
        self._calls = ReferenceCalls(program, runs, most, keep)
        self._still: set[str] | None = None  # what no compared step has changed

    @property
    def unchanged(self) -> list[str]:
        """Parameters and model state that none of the compared steps has changed.

        Without frozen groups. The steps had a learning rate above 0.
        """
        return sorted(self._still or ())

    def prepare(self, seen: Seen) -> None:
        """Start to compile what `compare` needs for this call."""
        self._calls.prepare(seen)

    def ready(self) -> bool:
        """Whether `compare` needn't wait for the compiler."""
        return self._calls.ready()

    def compare(self, seen: Seen) -> str:
        """Compare a call with the reference's.

        Returns:
          what agrees, in words; nothing does where there is too little memory, which
          the training may still have.

        Raises:
          Refused: something doesn't.
          JaxRuntimeError: too little memory, in one process of several: the others
            wait for what it hasn't begun.
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
            if ran_out(error):
                if jax.process_count() > 1:
                    raise
                return NO_MEMORY
            raise Refused(
                f"verify: the run can't be computed again: {type(error).__name__}: "
                f"{error}. (verify=false trains anyway)"
            ) from error
        return checked

    def _compare_initial(self, seen: Seen) -> None:
        """Compare the initial values for the run's seed, and for another."""
        call = self._calls.made["initial"].result()
        key, *rest = self._calls.seeded(seen)
        other_key = jax.random.fold_in(key, self._seed)
        again = _placed_like(_run(self._live_init, other_key, *rest), seen.before)
        adapted = self._calls.adapted
        live, live_again = (adapted(carry)[0] for carry in (seen.before, again))
        found = self._distances(live, _run(call, key, *rest), live_again)
        if self._spec.canonical:
            self._judge.initial(found, "the run's seed")
        other = self._distances(live_again, _run(call, other_key, *rest), live)
        # Another seed gives others, unless the model's initial values are all constant.
        if not any(jax.tree.leaves(found.moved)) and any(jax.tree.leaves(other.off)):
            self._judge.unseeded()
        if self._spec.canonical:
            self._judge.initial(other, "another seed")

    def _compare_steps(self, seen: Seen) -> str:
        calls = self._calls
        count, (before, is_whole) = calls.count(seen), calls.adapted(seen.before)
        # Of a state that nobody else can read, it is known how it begins.
        is_known = is_whole or (seen.start == 0 and self._spec.canonical)
        if is_known and not is_whole:
            initial = _run(calls.made["initial"].result(), *calls.seeded(seen))
            before = _with_opt_state(before, initial.state.opt_state)
        reaches_end = is_known and count == seen.stop - seen.start
        name, given = f"{count} steps", calls.steps_arguments(seen)
        call = calls.made[name].result()
        end, rows = _run(call, before, *given)
        rows = jax.device_get(rows)

        def evidence(live: dict, carry: Any, other: Any) -> Evidence:
            found = _numbers(seen.start, count, live, rows)
            if not is_whole:
                found = {k: v for k, v in found.items() if not k.startswith(_RATE)}
            if not is_known:  # all but the first step's update depends on the rest
                found = {
                    name: Series(*(x[:1] for x in numbers))
                    for name, numbers in found.items()
                    if not name.startswith(_AFTER)
                    and numbers.steps[0] == seen.start + 1
                }
            if reaches_end and not is_whole:  # the live one is zeros here
                carry = _with_opt_state(carry, other.state.opt_state)
            apart = self._distances(carry, other, before) if reaches_end else None
            return Evidence(seen.start, seen.start + count, found, apart)

        def again() -> Iterator[Evidence]:
            shares = {self._judge.rounding}
            if self._program.jumps:
                shares.add(max(shares | {_MUCH}))
            for share, number in itertools.product(sorted(shares), _NOISE):
                noise = recomputation.shaken(before, number, share)
                carry, shaken = _run(call, noise, *given)
                found = evidence(jax.device_get(shaken), carry, end)
                yield found._replace(noise=share / self._judge.rounding)
            if name in calls.packed:
                # Near the end of training gradients are differences of numbers close to
                # 1. How a population rounds these may count for more than any noise.
                carry, packed = _run(calls.packed[name], before, *given)
                carry = _placed_like(carry, before)
                yield evidence(jax.device_get(packed), carry, end)

        after = calls.adapted(seen.after)[0] if reaches_end else None
        found = evidence(seen.rows, after, end)
        self._judge.steps(found, again())
        if reaches_end:
            if any(seen.rows[_RATE] > 0):
                self._note_still(found.distances, before)
            own = "optimizer state, " if is_whole else ""
            return f"parameters, model state, {own}rows"
        return "rows" if is_known else "loss, metrics and gradient norm of one step"

    def _note_still(self, found: Any, before: Carry) -> None:
        params, model_state, _ = before.state
        frozen = by_path(grouping.frozen(self._runs[0].optimizer.groups)(params))
        moved = found.moved.state
        still = {
            f"{part}/{path}"
            for part, tree, by in (
                ("params", params, moved.params),
                ("model_state", model_state, moved.model_state),
            )
            for (path, x), distance in zip(
                by_path(tree).items(), jax.tree.leaves(by), strict=True
            )
            if distance == 0 and x.size and jnp.issubdtype(x.dtype, jnp.floating)
            if not (part == "params" and frozen[path])
        }
        self._still = still if self._still is None else self._still & still

    def _compare_evaluation(self, seen: Seen, split: str, live: dict) -> None:
        carry, data = self._calls.adapted(seen.after)[0], self._calls.evaluated(split)
        evaluate = self._calls.made["evaluation"].result()
        live = self._program.own(jax.device_get(live), seen.member)
        ours = jax.device_get(evaluate(carry, *data, self._calls.totals)[1])

        def evidence(numbers: dict) -> Evidence:
            at = np.array([seen.stop])
            found = {
                f"{split}/{name}": Series(at, np.array([x]), np.array([ours[name]]))
                for name, x in numbers.items()
            }
            return Evidence(seen.start, seen.stop, found, None)

        def again() -> Iterator[Evidence]:
            for number in _NOISE:
                noise = recomputation.shaken(carry, number, self._judge.rounding)
                shaken = evaluate(noise, *data, self._calls.totals)[1]
                yield evidence(jax.device_get(shaken))

        self._judge.evaluation(evidence(live), again())
        outputs = self._calls.made["outputs"].result()
        (size, moved), (its_size, _) = (
            jax.device_get(outputs(seen.after, *data)) for _ in range(2)
        )
        moved |= {"twice": jax.tree.map(apart, size, its_size)}
        padding, total = moved.pop("padding"), moved.pop("sums")
        found = {how: Distances(off, size, size) for how, off in moved.items()}
        self._judge.outputs(seen.stop, found, Distances(padding, total, total))

    def _distances(self, *trees: Any) -> Distances:
        return jax.device_get(self._calls.made["distances"].result()(*trees))


def _with_opt_state(carry: Carry, opt_state: Any) -> Carry:
    return carry._replace(state=carry.state._replace(opt_state=opt_state))


def _numbers(start: int, count: int, live: dict, other: dict) -> dict[str, Series]:
    """The numbers of `count` steps; norms are those of the ends of blocks."""
    found = {}
    for name, numbers in other.items():
        block = count // len(numbers)
        steps = start + np.arange(block, count + 1, block)
        found[name] = Series(steps, live[name][: len(numbers)], numbers)
    return found


def _run(function: Callable, *arguments: Any) -> Any:
    """Call a compiled function and wait: none that follows must overlap with it."""
    return jax.block_until_ready(function(*arguments))


def _placed_like(tree: Any, other: Any) -> Any:
    """`tree` on the devices of `other`, leaf by leaf."""
    return jax.device_put(tree, jax.tree.map(lambda x: x.sharding, other))
