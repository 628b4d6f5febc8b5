"""Functions that have moved since a run was recorded."""

from typing import Any

# The beginnings of `_target_`s of the first edition, and their names today.
_MOVED = {
    "runner.losses.classification": "runner.tasks.classification.classification",
    "runner.losses.reconstruction": "runner.tasks.reconstruction.reconstruction",
    "runner.schedules.": "runner.core.schedules.",
    "runner.optimizers.": "runner.core.optimizers.",
    "runner.data.tfds.tfds_data": "runner.data.tfds.dataset.tfds_data",
}


def with_todays_targets(config: Any, key: Any = None) -> Any:
    """A recorded configuration with the present name of each `_target_` that moved."""
    if isinstance(config, list):
        return [with_todays_targets(item) for item in config]
    if isinstance(config, dict):
        return {k: with_todays_targets(item, k) for k, item in config.items()}
    if key == "_target_" and isinstance(config, str):
        for old, new in _MOVED.items():
            if config == old or (old.endswith(".") and config.startswith(old)):
                return new + config[len(old) :]
    return config
