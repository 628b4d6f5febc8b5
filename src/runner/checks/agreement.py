"""Decide whether a run and its reference differ by more than rounding, and say how."""

from collections import Counter
from collections.abc import Iterator, Mapping
from math import inf, isfinite, sqrt

import jax
import numpy as np

from runner.checks.evidence import Distances, Evidence, apart
from runner.errors import Refused
from runner.trees import by_path

# Two programs for one formula add up in another order. Differences below these are
# rounding in any case, relative to a number or to what a parameter has moved.
NUMBER, PARAMETER = 1e-4, 1e-3
# More than that may be chaos: then a difference counts only if it is so many times what
# rounding errors in the parameters lead to. Near the end of training, where gradients
# are small differences of numbers near 1, honest pipelines have reached 22 times.
FACTOR = 50.0
# Initial values are random bits in a formula: no sums.
INITIAL = 1e-6
FLOAT32 = 2.0**-23
ANYWAY = "(verify=false trains anyway)"
_TINY = 1e-30
# What outputs must not move by.
_MOVED = {
    "twice": "the same batch gives other outputs when it is evaluated twice",
    "others": "outputs of an example depend on the other examples of its batch",
    "places": "outputs of an example depend on its place in the batch",
}
_SMOOTH = ("loss", "grad_norm", "learning_rate", "update_norm")


def rounding(compute: str, matmul: str, platform: str) -> float:
    """The relative rounding error of what layers compute.

    Args:
      compute: the dtype of layers.
      matmul: the precision of matrix products.
      platform: of the devices, in JAX's words.
    """
    if compute != "float32":
        return float(jax.numpy.finfo(compute).eps)
    if matmul in ("highest", "float32") or platform == "cpu":
        return FLOAT32
    return 2.0**-10 if platform == "gpu" else 2.0**-8  # TF32, or bfloat16 on a TPU


class Agreement:
    """Decides whether what a run or a population did differs by more than rounding.

    Each function raises Refused if it does. `again` gives what the other computation
    gives if parameters are changed by rounding, against what it gives if they aren't:
    a few times, as many as are asked for.

    Args:
      rounding: see the function of this name.
    """

    def __init__(self, rounding: float):
        self.rounding = rounding
        # Of each metric, how many numbers were compared and how many of them differ.
        self._compared: Counter[str] = Counter()
        self._differing: Counter[str] = Counter()

    def initial(self, found: Distances, seed: str) -> None:
        """Judge the initial values for a seed, which is named in words."""
        for path, off, _, size in _leaves(found):
            if not off <= INITIAL * size:
                raise Refused(
                    f"verify: {path} doesn't start from the initial values of the "
                    f"model: with {seed} it is {off / max(size, _TINY):.2g} times its "
                    f"size away from them. {ANYWAY}"
                )

    def unseeded(self) -> None:
        """Judge that another seed gives the same initial values."""
        raise Refused(
            "verify: another seed gives the same initial parameters, so runs that "
            f"differ in the seed alone start alike. {ANYWAY}"
        )

    def steps(self, found: Evidence, again: Iterator[Evidence]) -> None:
        """Judge the steps of a call."""
        differs = self._differences(found, again)
        if differs:
            raise Refused(
                "verify: the run doesn't do what the config says. Its steps "
                f"{found.start + 1} to {found.stop} were computed again from the same "
                f"state, examples and keys. {'. '.join(differs)}. {ANYWAY}"
            )

    def evaluation(self, found: Evidence, again: Iterator[Evidence]) -> None:
        """Judge the numbers of an evaluation."""
        differs = self._differences(found, again)
        if differs:
            raise Refused(
                "verify: the evaluation isn't that of the parameters and the model. "
                f"{'. '.join(differs)}. {ANYWAY}"
            )

    def outputs(
        self, step: int, found: Mapping[str, Distances], metrics: Distances
    ) -> None:
        """Judge the outputs of a batch in evaluation.

        Args:
          step: the parameters are those after it.
          found: how far outputs move, by each of _MOVED.
          metrics: how far the sums of some examples move by others that don't count.
        """
        for how, what in _MOVED.items():
            for _, off in self._beyond_rounding(found[how]):
                raise Refused(
                    f"verify: in evaluation, {what}: with the parameters after "
                    f"step {step} they differ by {off:.2g} times their size. {ANYWAY}"
                )
        for path, _ in self._beyond_rounding(metrics):
            name = path.partition("/")[0]
            raise Refused(
                f"verify: the metric {name} depends on examples that don't count, such "
                "as those that fill up a last batch: its `update` must leave out where "
                f"`counted` is False. {ANYWAY}"
            )

    def _beyond_rounding(self, found: Distances) -> Iterator[tuple[str, float]]:
        """The leaves that aren't the same, and how far off they are, by their size."""
        for path, off, _, size in _leaves(found):
            # What isn't finite in both is equal, and its size isn't finite.
            scale = size if isfinite(size) else 0.0
            if not off <= max(NUMBER, 4 * self.rounding) * scale:
                yield path, off / max(scale, _TINY)

    def _differences(self, found: Evidence, again: Iterator[Evidence]) -> list[str]:
        """Sentences about what differs by more than rounding explains."""
        noises: list[Evidence] = []
        while True:
            differing = self._beyond(found, noises)
            furthest = self._furthest(found, noises)
            # Each allows for more, and takes a computation.
            noise = next(again, None) if differing or furthest else None
            if noise is None:
                break
            noises.append(noise)
        for name, numbers in found.numbers.items():
            if _is_metric(name):
                self._compared[name] += len(numbers.steps)
                self._differing[name] += len(differing.get(name, ()))
                # A tie may be broken either way, and count for much; not again and
                # again.
                count = self._differing[name]
                if count < 2 or count <= self._compared[name] / 4:
                    differing.pop(name, None)
        said = []
        if differing:
            # The first, and of those at one step what is nearest to a cause.
            name = min(
                differing,
                key=lambda k: (found.numbers[k].steps[differing[k][0]], _rank(k)),
            )
            numbers, at = found.numbers[name], differing[name][0]
            said.append(
                f"At step {numbers.steps[at]} {name} was {numbers.live[at]:.6g} "
                f"instead of {numbers.other[at]:.6g}"
            )
        return [*said, furthest] if furthest else said

    def _beyond(self, found: Evidence, noises: list[Evidence]) -> dict[str, np.ndarray]:
        """The indices of numbers that are further off than they may be, by name."""
        beyond = {}
        for name, numbers in found.numbers.items():
            own = np.abs(np.where(np.isfinite(numbers.other), numbers.other, 0))
            limit = max(NUMBER, 4 * self.rounding) * own
            limit = limit + FLOAT32 * (8 * own.max(initial=0) + 1)
            for noise in noises:
                off = apart(*noise.numbers[name][1:])
                if _is_metric(name):
                    off = np.full_like(off, off.max(initial=0))
                # It grows from step to step, and may do so sooner here than there.
                grown = np.maximum.accumulate(off)
                grown = np.append(grown[1:], grown[-1:])
                limit = np.maximum(limit, _factor(noise) * grown)
            at = np.flatnonzero(~(apart(*numbers[1:]) <= limit))
            if len(at):
                beyond[name] = at
        return beyond

    def _furthest(self, found: Evidence, noises: list[Evidence]) -> str | None:
        """A sentence about the leaf that is furthest beyond what it may be off."""
        if found.distances is None:
            return None
        others = [(_factor(n), _leaves(n.distances)) for n in noises if n.distances]
        worst, sentence = (False, 1.0), None
        for i, (path, off, moved, size) in enumerate(_leaves(found.distances)):
            moved_by, steps = isfinite(moved) and moved, found.stop - found.start
            limit = max(PARAMETER, 4 * self.rounding) * moved_by
            limit += 4 * FLOAT32 * sqrt(steps) * (isfinite(size) and size)
            limit = max([limit, *(times * _finite(n[i][1]) for times, n in others)])
            beyond = _finite(off) / max(limit, _TINY) if off else 0.0
            # A parameter is what a person knows by its name.
            here = path.startswith("params/"), beyond
            if beyond > 1 and here > worst:
                worst = here
                sentence = (
                    f"After step {found.stop} {path} is {off:.3g} away from what it "
                    f"should be, having moved by {moved:.3g}"
                )
        return sentence


def _leaves(found: Distances) -> list[tuple[str, float, float, float]]:
    """Path, off, moved and size of each leaf."""
    numbers = zip(*map(jax.tree.leaves, found), strict=True)
    return [
        (path.removeprefix("state/"), float(off), float(moved), float(size))
        for path, (off, moved, size) in zip(by_path(found.off), numbers, strict=True)
    ]


def _factor(noise: Evidence) -> float:
    """What the effect of this noise is multiplied by."""
    return max(1.0, FACTOR / noise.noise)


def _finite(off: float) -> float:
    return off if isfinite(off) else inf


def _rank(name: str) -> int:
    """Where a number comes in a step: its loss first, metrics last."""
    named = (_SMOOTH.index(part) for part in name.split("/") if part in _SMOOTH)
    return next(named, len(_SMOOTH))


def _is_metric(name: str) -> bool:
    return _rank(name) == len(_SMOOTH)
