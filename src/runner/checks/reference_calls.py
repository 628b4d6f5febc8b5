"""What computes a call of a run again: its reference, compiled, and its arguments."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.checks import recomputation
from runner.checks.evidence import Seen
from runner.checks.recomputation import adapted
from runner.core import step
from runner.core.compiling import BRIEF, Compiling, once
from runner.core.evaluation import Evaluation
from runner.core.keep import Keep
from runner.core.program import MEMBER_AXES, Program
from runner.core.run import Run
from runner.core.step import NORMS, Carry

_LOSS = "train/loss"


class ReferenceCalls:
    """The programs of a run's reference that a comparison calls.

    Args:
      program: the one that trains.
      runs: those that it trains.
      most: the steps of a call that are computed, or else a whole number of blocks.
      keep: for what is compiled.

    Attributes:
      made: each program by its name.
      packed: the same steps as a population rounds them, compiled if they are ever
        called.
    """

    def __init__(self, program: Program, runs: Sequence[Run], most: int, keep: Keep):
        self._program, self._runs, self._most = program, runs, most
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
        self.made: dict[str, Compiling] = {}
        self.packed: dict[str, Callable] = {}
        sharding = self._mesh.batches if alone else self._mesh.replicated
        self._rows = jax.jit(_rows, static_argnums=(2,), out_shardings=sharding)

    def prepare(self, seen: Seen) -> None:
        """Start to compile what a comparison of this call needs."""
        before, parts = self.adapted(seen.before)[0], self._parts
        state = jax.tree.map(lambda x: x.sharding, before)
        count = self.count(seen)
        name = f"{count} steps"
        if name not in self.made:
            devices, looped = self._mesh.devices, self._program.looped
            again = step.train_step(*parts, self._spec.microbatches, devices)
            block = self._block(seen)
            call = step.train_call(again, block, count // block, looped, devices)
            given = self.steps_arguments(seen)
            jitted = jax.jit(call, out_shardings=(state, self._whole))
            self._compile(name, jitted, (before, *given))
            if members := self._program.members:
                self.packed[name] = _among_copies(call, members)
        if "distances" not in self.made:
            # In the background: it would take half a second of the first comparison.
            self._compile("distances", once(recomputation.distances), (before,) * 3)
        if seen.start == 0 and "initial" not in self.made:
            jitted = once(self._init, BRIEF, out_shardings=state)
            self._compile("initial", jitted, self.seeded(seen))
        if seen.begun and "evaluation" not in self.made:
            data = self.evaluated(next(iter(seen.begun)))
            capacity = self._evaluation.capacity
            evaluate = step.eval_call(step.eval_step(*parts), parts[1], capacity)
            self._compile("evaluation", once(evaluate), (before, *data, self.totals))
            outputs = recomputation.outputs(self._spec.pipeline.predict, *parts[1:])
            self._compile("outputs", once(outputs), (seen.before, *data))

    def ready(self) -> bool:
        """Whether nobody needs to wait for the compiler."""
        return all(made.ready() for made in self.made.values())

    def _block(self, seen: Seen) -> int:
        """The steps of a block of the call: see `Cut`."""
        return len(seen.rows[_LOSS]) // len(seen.rows[NORMS[0]])

    def count(self, seen: Seen) -> int:
        """The steps of the call that are computed again: whole blocks."""
        steps, block = seen.stop - seen.start, self._block(seen)
        return min(steps, max(1, self._most // block) * block)

    def steps_arguments(self, seen: Seen) -> tuple:
        """The arguments of the call, but the carry."""
        run, count = self._runs[seen.member], self.count(seen)
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

    def seeded(self, seen: Seen) -> tuple:
        """The arguments of a run's `init`."""
        return self._runs[seen.member].init_arguments

    def evaluated(self, split: str) -> tuple:
        """The columns, and the batches of the first evaluation call."""
        first = next(iter(self._evaluation.batches(split)))
        return self._evaluation.columns(), first

    @property
    def _evaluation(self) -> Evaluation:
        assert self._program.evaluation is not None
        return self._program.evaluation

    @property
    def totals(self) -> Any:
        """What an evaluation begins with."""
        return self._program.own(self._evaluation.totals, 0)

    def _compile(self, name: str, jitted: Callable, arguments: tuple) -> None:
        cut, looped = self._program.cut, self._program.looped
        # A kind of each name: a session keeps so many programs of a kind.
        key = f"witness {name}", self._spec.key, self._mesh.own, cut, looped
        shapes = jax.tree.map(_shape, arguments)
        self.made[name] = self._keep(key, lambda: Compiling(jitted, *shapes))

    def adapted(self, carry: Carry) -> tuple[Carry, bool]:
        """`carry` as the reference has it, and whether that is all of it."""
        return adapted(carry, self._shapes, self._mesh.replicated)


def _rows(x: jax.Array, member: Any, count: int) -> jax.Array:
    """The rows of the first `count` steps, of one member of a population if given."""
    return (x if member is None else x[member])[:count]


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
