"""What conf/ has, and the small run that tests of all of it train."""

import pytest

from runner.config.conf import conf_dir

NAMES = sorted(path.stem for path in (conf_dir() / "optimizer").glob("*.yaml"))
# One of each kind of state: none, moments, factored moments, lists, a history, a second
# gradient, a projection, matrices apart from vectors, averages, and distances.
KINDS = (
    "sgd", "adamw", "adafactor", "sm3", "lbfgs", "sam", "galore", "muon",
    "schedule_free_adamw", "dog",
)  # fmt: skip
# All of them, but those that are like one of KINDS at night alone.
BY_KIND = [
    name if name in KINDS else pytest.param(name, marks=pytest.mark.nightly)
    for name in NAMES
]

SMALL = (
    "framework=jax", "model.hidden_sizes=[16]", "train.epochs=null", "train.steps=20",
    "train.log_every_steps=1", "train.eval_every_steps=40",
)  # fmt: skip
