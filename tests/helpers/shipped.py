"""What conf/ has, and the small run that tests of all of it train."""

from collections.abc import Sequence

import pytest

from runner.config.conf import conf_dir

NAMES = sorted(path.stem for path in (conf_dir() / "optimizer").glob("*.yaml"))
# One of each kind of state: none, moments, factored moments, lists, a history, a second
# gradient, a projection, matrices apart from vectors, averages, and distances.
KINDS = (
    "sgd", "adamw", "adafactor", "sm3", "lbfgs", "sam", "galore", "muon",
    "schedule_free_adamw", "dog",
)  # fmt: skip


def each_of(kinds: Sequence[str]) -> list:
    """All optimizers, but those not in `kinds` at night alone."""
    return [
        name if name in kinds else pytest.param(name, marks=pytest.mark.nightly)
        for name in NAMES
    ]


BY_KIND = each_of(KINDS)

SMALL = (
    "framework=jax", "model.hidden_sizes=[16]", "train.epochs=null", "train.steps=20",
    "train.log_every_steps=1", "train.eval_every_steps=40",
)  # fmt: skip
