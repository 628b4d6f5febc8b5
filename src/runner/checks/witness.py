"""A witness: it has some calls of a run computed again, beside training."""

import secrets
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.checks.agreement import Agreement
from runner.checks.comparison import NO_MEMORY, Comparison
from runner.checks.evidence import Seen
from runner.core.compiling import Compiling
from runner.core.keep import Keep
from runner.core.program import Program
from runner.core.run import Run, Witness
from runner.core.shapes import start_shapes

# A run has at least so many witnesses, at its start, its end and between them, and at
# most so many, if all together take less than this share of its steps.
FEWEST, MOST, SHARE = 3, 8, 1 / 200
# Of a longer call only so many steps are computed again.
MOST_STEPS = 1024


class Recomputing(Witness):
    """Chooses calls of a run, or of a population's, and copies what they start from.

    Nothing that is trained depends on it, and nothing in the run can foresee which
    calls it chooses. In a population it looks at one member of each, at all in turn.

    Args:
      program: the one that trains.
      runs: those that it trains.
      start: the steps done before.
      judge: decides what is a difference.
      init: returns the initial carry of a single run: see `Program.init`.
      free: returns the bytes that are free on each device.
      agree: see `Host`.
      keep: for what is compiled.

    Attributes:
      seen: a record of each call that agreed, or that doesn't fit into memory.
    """

    def __init__(
        self,
        program: Program,
        runs: Sequence[Run],
        start: int,
        judge: Agreement,
        init: Callable,
        free: Callable[[], float],
        agree: Callable[[str, Any], Any],
        keep: Keep,
    ):
        self._program, self._members = program, program.members
        self._free, self._agree = free, agree
        share = int(len(runs[0].learning_rates) * SHARE)
        most = max(MOST_STEPS, share // FEWEST)
        count = min(max(FEWEST, share // min(most, program.cut.steps)), MOST)
        # Of the operating system: a seed of the run's would foretell it.
        self._random = secrets.SystemRandom()
        left = range(start, len(runs[0].learning_rates))
        drawn = [self._random.choice(left) for _ in range(count - 2) if left]
        self._chosen = agree("witness", [*left[:1], *drawn, *left[-1:]])
        seed = agree("witness/seed", self._random.randrange(2**31))
        self._comparison = Comparison(program, runs, most, judge, init, seed, keep)
        self._most = most
        self._take = self._taking(runs[0], keep)
        self._watched: Seen | None = None
        self._dispatched: Any = None
        self._looked_at: set[int] = set()
        self._unread: deque[Seen] = deque()
        self._waiting: deque[Seen] = deque()
        self.seen: list[dict[str, Any]] = []

    def before(
        self,
        start: int,
        stop: int,
        carry: Any,
        batches: Any,
        eval_loss: Any,
        active: Collection[int],
    ) -> None:
        self._watched = None
        if not any(start <= chosen < stop for chosen in self._chosen):
            return
        if not self._agree(f"witness {start}", self._fits(carry)):
            found = {"step": start + 1, "steps": stop - start}
            self.seen.append(found | {"checked": NO_MEMORY})
            return
        member = self._next_member(active) if self._members else 0
        before = self._take.result()(carry, np.int32(member))
        self._watched = Seen(
            start, stop, member, before, None, batches, eval_loss, {}, {}
        )

    def after(
        self, carry: Any, evaluation: Any, begun: dict[str, dict[str, Any]]
    ) -> None:
        self._dispatched = carry, evaluation
        seen = self._watched
        if seen is None:
            return
        after = None
        if begun or seen.stop - seen.start <= self._most:
            after = self._take.result()(carry, np.int32(seen.member))
        self._unread.append(seen._replace(after=after, begun=begun))
        self._watched = None

    def read(self, call: Any) -> None:
        if self._unread and self._unread[0].start == call.start:
            seen = self._unread.popleft()
            seen = seen._replace(rows=call.own(self._program, seen.member).rows)
            self._comparison.prepare(seen)
            self._waiting.append(seen)
        if self._waiting and self._comparison.ready():
            self.settle()

    def settle(self) -> None:
        with jax.debug_nans(False):  # a run that continues with a NaN has it here too
            if self._waiting:
                # Devices of a CPU share its threads, so programs with sums over them
                # don't go together with calls that are under way.
                jax.block_until_ready(self._dispatched)
            while self._waiting:
                seen = self._waiting.popleft()
                found = {"step": seen.start + 1, "steps": seen.stop - seen.start}
                if self._members:
                    found |= {"member": seen.member}
                self.seen.append(found | {"checked": self._comparison.compare(seen)})

    @property
    def unchanged(self) -> list[str]:
        """See `Comparison`."""
        return self._comparison.unchanged

    def _next_member(self, active: Collection[int]) -> int:
        """One of those that it has looked at least often."""
        unseen = set(active) - self._looked_at
        if not unseen:
            self._looked_at, unseen = set(), set(active)
        member = self._random.choice(sorted(unseen))
        self._looked_at.add(member)
        return member

    def _fits(self, carry: Any) -> bool:
        """Whether copies of a run's carry, and computing with them, fit into memory."""
        parts = (x.sharding.shard_shape(x.shape) for x in jax.tree.leaves(carry))
        types = (x.dtype.itemsize for x in jax.tree.leaves(carry))
        own = sum(np.prod(p) * t for p, t in zip(parts, types, strict=True))
        longest = self._program.longest
        call = self._program.bytes if longest.ready() else 0
        return bool((3 * own + call) / (self._members or 1) < self._free())

    def _taking(self, run: Run, keep: Keep) -> Compiling:
        """A function (carry, member) -> a copy of the member's part of it."""
        spec, mesh, members = run.spec, self._program.mesh, self._members
        carry = start_shapes(spec, run.values, members).carry
        sharding: Any = mesh.replicated
        if members is None:
            sharding = jax.tree.map(lambda x: x.sharding, carry)

        def take(carry, member):
            return jax.tree.map(lambda x: x[member] if members else jnp.copy(x), carry)

        jitted = jax.jit(take, out_shardings=sharding)
        key = "witness take", spec.key, members
        return keep(key, lambda: Compiling(jitted, carry, np.int32(0)))
