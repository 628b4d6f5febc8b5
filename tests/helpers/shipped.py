"""What conf/ has, and the small run that tests of all of it train."""

from runner.config.conf import conf_dir

NAMES = sorted(path.stem for path in (conf_dir() / "optimizer").glob("*.yaml"))

SMALL = (
    "framework=jax", "model.hidden_sizes=[16]", "train.epochs=null", "train.steps=20",
    "train.log_every_steps=1", "train.eval_every_steps=40",
)  # fmt: skip
