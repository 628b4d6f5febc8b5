"""A call of a run, compared with what the run's reference makes of it."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.checks import recomputation
from runner.checks.agreement import Agreement
from runner.checks.evidence import Distances, Evidence, Seen, Series, apart
from runner.checks.recomputation import adapted
from runner.core import groups as grouping
from runner.core import step
from runner.core.compiling import BRIEF, Compiling, once
from runner.core.evaluation import Evaluation
from runner.core.keep import Keep
from runner.core.memory import ran_out
from runner.core.program import MEMBER_AXES, Program
from runner.core.run import Run
from runner.core.step import NORMS, Carry
from runner.errors import Refused
from runner.trees import by_path

NO_MEMORY = "nothing: too little memory"
# Numbers that noise is made from: see `recomputation.shaken`.
_NOISE = 1.7, 2.9
# Noise that changes some signs. Rounding seldom does, but the update is another then.
_MUCH = 1e-4
_LOSS = "train/loss"
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
        self._program, self._runs, self._most = program, runs, most
        self._judge, self._live_init, self._seed = judge, init, seed
        self._keep, self._mesh = keep, program.mesh
        alone = program.members is None
        # A member of a population is whole on each device.
        self._whole = program.mesh.own if alone else program.mesh.replicated
        self._spec = spec = runs[0].spec
        self._parts = spec.reference(), spec.task, spec.dataset.transforms
        self._init = step.init(self._parts[0], spec.averaging, spec.optimizer)
        # Traced once for all populations of a sweep.
        given = runs[0].init_arguments
        self._shapes = keep(
            ("witness shapes", spec.key), lambda: jax.eval_shape(self._init, *given)
        )
        self._made: dict[str, Compiling] = {}
        self._still: set[str] | None = None  # what no compared step has changed
        # The same steps as a population rounds them, compiled if they are ever called.
        self._packed: dict[str, Callable] = {}
        sharding = self._mesh.batches if alone else self._mesh.replicated
        self._rows = jax.jit(_rows, static_argnums=(2,), out_shardings=sharding)

    @property
    def unchanged(self) -> list[str]:
        """Parameters and model state that none of the compared steps has changed.

        Without frozen groups. The steps had a learning rate above 0.
        """
        return sorted(self._still or ())

    def prepare(self, seen: Seen) -> None:
        """Start to compile what `compare` needs for this call."""
        before, parts = self._adapted(seen.before)[0], self._parts
        state = jax.tree.map(lambda x: x.sharding, before)
        count = self._count(seen)
        name = f"{count} steps"
        if name not in self._made:
            devices, looped = self._mesh.devices, self._program.looped
            again = step.train_step(*parts, self._spec.microbatches, devices)
            block = self._block(seen)
            call = step.train_call(again, block, count // block, looped, devices)
            given = self._steps_arguments(seen)
            jitted = jax.jit(call, out_shardings=(state, self._whole))
            self._compile(name, jitted, (before, *given))
            if members := self._program.members:
                self._packed[name] = _among_copies(call, members)
        if "distances" not in self._made:
            # In the background: it would take half a second of the first comparison.
            self._compile("distances", once(recomputation.distances), (before,) * 3)
        if seen.start == 0 and "initial" not in self._made:
            jitted = once(self._init, BRIEF, out_shardings=state)
            self._compile("initial", jitted, self._seeded(seen))
        if seen.begun and "evaluation" not in self._made:
            data = self._evaluated(next(iter(seen.begun)))
            capacity = self._evaluation.capacity
            evaluate = step.eval_call(step.eval_step(*parts), parts[1], capacity)
            self._compile("evaluation", once(evaluate), (before, *data, self._totals))
            outputs = recomputation.outputs(self._spec.pipeline.predict, *parts[1:])
            self._compile("outputs", once(outputs), (seen.before, *data))

    def ready(self) -> bool:
        """Whether `compare` needn't wait for the compiler."""
        return all(made.ready() for made in self._made.values())

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
        call = self._made["initial"].result()
        key, *rest = self._seeded(seen)
        other_key = jax.random.fold_in(key, self._seed)
        again = _placed_like(_run(self._live_init, other_key, *rest), seen.before)
        live, live_again = (self._adapted(carry)[0] for carry in (seen.before, again))
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
        count, (before, is_whole) = self._count(seen), self._adapted(seen.before)
        # Of a state that nobody else can read, it is known how it begins.
        is_known = is_whole or (seen.start == 0 and self._spec.canonical)
        if is_known and not is_whole:
            initial = _run(self._made["initial"].result(), *self._seeded(seen))
            before = _with_opt_state(before, initial.state.opt_state)
        reaches_end = is_known and count == seen.stop - seen.start
        name, given = f"{count} steps", self._steps_arguments(seen)
        call = self._made[name].result()
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

        def again() -> list[Evidence]:
            found = []
            shares = {self._judge.rounding}
            if self._program.jumps:
                shares.add(max(shares | {_MUCH}))
            for share, number in itertools.product(sorted(shares), _NOISE):
                noise = recomputation.shaken(before, number, share)
                carry, shaken = _run(call, noise, *given)
                got = evidence(jax.device_get(shaken), carry, end)
                found.append(got._replace(noise=share / self._judge.rounding))
            if name in self._packed:
                # Near the end of training gradients are differences of numbers close to
                # 1. How a population rounds these may count for more than any noise.
                carry, packed = _run(self._packed[name], before, *given)
                carry = _placed_like(carry, before)
                found.append(evidence(jax.device_get(packed), carry, end))
            return found

        after = self._adapted(seen.after)[0] if reaches_end else None
        found = evidence(seen.rows, after, end)
        self._judge.steps(found, again)
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
        carry, data = self._adapted(seen.after)[0], self._evaluated(split)
        evaluate = self._made["evaluation"].result()
        live = self._program.own(jax.device_get(live), seen.member)
        ours = jax.device_get(evaluate(carry, *data, self._totals)[1])

        def evidence(numbers: dict) -> Evidence:
            at = np.array([seen.stop])
            found = {
                f"{split}/{name}": Series(at, np.array([x]), np.array([ours[name]]))
                for name, x in numbers.items()
            }
            return Evidence(seen.start, seen.stop, found, None)

        def again() -> list[Evidence]:
            found = []
            for number in _NOISE:
                noise = recomputation.shaken(carry, number, self._judge.rounding)
                shaken = evaluate(noise, *data, self._totals)[1]
                found.append(evidence(jax.device_get(shaken)))
            return found

        self._judge.evaluation(evidence(live), again)
        outputs = self._made["outputs"].result()
        (size, moved), (its_size, _) = (
            jax.device_get(outputs(seen.after, *data)) for _ in range(2)
        )
        moved |= {"twice": jax.tree.map(apart, size, its_size)}
        padding, total = moved.pop("padding"), moved.pop("sums")
        found = {how: Distances(off, size, size) for how, off in moved.items()}
        self._judge.outputs(seen.stop, found, Distances(padding, total, total))

    def _distances(self, *trees: Any) -> Distances:
        return jax.device_get(self._made["distances"].result()(*trees))

    def _block(self, seen: Seen) -> int:
        """The steps of a block of the call: see `Cut`."""
        return len(seen.rows[_LOSS]) // len(seen.rows[NORMS[0]])

    def _count(self, seen: Seen) -> int:
        """The steps of the call that are computed again: whole blocks."""
        steps, block = seen.stop - seen.start, self._block(seen)
        return min(steps, max(1, self._most // block) * block)

    def _steps_arguments(self, seen: Seen) -> tuple:
        """The arguments of the call, but the carry."""
        run, count = self._runs[seen.member], self._count(seen)
        eval_loss = self._program.own(jax.device_get(seen.eval_loss), seen.member)
        return (
            self._program.data().train,
            self._batches(seen, count),
            run.learning_rates[seen.start : seen.start + count],
            np.int32(seen.start),
            np.float32(eval_loss),
            run.values,
        )

    def _batches(self, seen: Seen, count: int) -> Any:
        alone = self._program.members is None
        if alone and seen.stop - seen.start == count:
            return seen.batches
        member = None if alone else np.int32(seen.member)
        return jax.tree.map(lambda x: self._rows(x, member, count), seen.batches)

    def _seeded(self, seen: Seen) -> tuple:
        """The arguments of a run's `init`."""
        return self._runs[seen.member].init_arguments

    def _evaluated(self, split: str) -> tuple:
        """The columns, and the batches of the first evaluation call."""
        first = next(iter(self._evaluation.batches(split)))
        return self._evaluation.columns(), first

    @property
    def _evaluation(self) -> Evaluation:
        assert self._program.evaluation is not None
        return self._program.evaluation

    @property
    def _totals(self) -> Any:
        return self._program.own(self._evaluation.totals, 0)

    def _compile(self, name: str, jitted: Callable, arguments: tuple) -> None:
        cut, looped = self._program.cut, self._program.looped
        # A kind of each name: a session keeps so many programs of a kind.
        key = f"witness {name}", self._spec.key, self._mesh.own, cut, looped
        shapes = jax.tree.map(_shape, arguments)
        self._made[name] = self._keep(key, lambda: Compiling(jitted, *shapes))

    def _adapted(self, carry: Carry) -> tuple[Carry, bool]:
        return adapted(carry, self._shapes, self._mesh.replicated)


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


def _rows(x: jax.Array, member: Any, count: int) -> jax.Array:
    """The rows of the first `count` steps, of one member of a population if given."""
    return (x if member is None else x[member])[:count]


def _run(function: Callable, *arguments: Any) -> Any:
    """Call a compiled function and wait: none that follows must overlap with it."""
    return jax.block_until_ready(function(*arguments))


def _placed_like(tree: Any, other: Any) -> Any:
    """`tree` on the devices of `other`, leaf by leaf."""
    return jax.device_put(tree, jax.tree.map(lambda x: x.sharding, other))


def _among_copies(call: Callable, members: int) -> Callable:
    """`call`, which takes and gives what it does alone, in a population of copies."""
    packed = jax.jit(jax.vmap(call, MEMBER_AXES))

    def first(*arguments: Any) -> Any:
        # Outside of the compiled program, which must not know that they are equal.
        copies = [
            x if axis is None else jax.tree.map(lambda leaf: _copied(leaf, members), x)
            for axis, x in zip(MEMBER_AXES, arguments, strict=True)
        ]
        return jax.tree.map(lambda x: x[0], packed(*copies))

    return first


def _copied(leaf: Any, members: int) -> jax.Array:
    return jnp.broadcast_to(leaf, (members, *jnp.shape(leaf)))


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    committed = isinstance(x, jax.Array) and x.committed
    sharding = x.sharding if committed else None
    return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding)
