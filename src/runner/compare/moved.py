"""Functions that have moved since a run was recorded."""

from typing import Any

# The beginnings of `_target_`s of the first edition, and their names today.
MOVED = {
    "runner.losses.classification": "runner.tasks.classification.classification",
    "runner.losses.reconstruction": "runner.tasks.reconstruction.reconstruction",
    "runner.schedules.": "runner.core.schedules.",
    "runner.optimizers.": "runner.core.optimizers.",
    "runner.data.tfds.tfds_data": "runner.data.tfds.dataset.tfds_data",
}


def with_todays_targets(config: Any) -> Any:
    """A recorded configuration with the present name of each `_target_` that moved."""
    if isinstance(config, list):
        return [with_todays_targets(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {
        key: _today(value) if key == "_target_" else with_todays_targets(value)
        for key, value in config.items()
    }


def _today(target: Any) -> Any:
    if isinstance(target, str):
        for old, new in MOVED.items():
            if target == old or (old.endswith(".") and target.startswith(old)):
                return new + target[len(old) :]
    return target
