"""The fields of a W&B run, from its folder and the environment."""

import os
from collections.abc import Mapping
from typing import Any

from runner.record.mirrors.tracker import Source
from runner.record.secrets import scrub, scrub_message

# The groups that distinguish the runs of a sweep at a glance.
_TAGGED = ("model", "framework", "optimizer", "schedule", "data")
_VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "name": "WANDB_NAME",
    "tags": "WANDB_TAGS",
    "notes": "WANDB_NOTES",
    "dir": "WANDB_DIR",
    "id": "WANDB_RUN_ID",
}


def fields(source: Source) -> dict[str, Any]:
    """W&B's fields of a run, with nulls filled in, so that a sweep is readable."""
    config = source.config
    wandb, hydra = config.get("wandb", {}), config.get("hydra", {})
    choices = hydra.get("choices", {})
    name = wandb.get("name") or ",".join(hydra.get("overrides", ()))
    tags = wandb.get("tags") or [f"{k}={choices[k]}" for k in _TAGGED if k in choices]
    folder = source.folder.absolute()
    in_sweep = (folder.parent / "sweep.json").exists() and folder.parent.name
    found = {
        "project": wandb.get("project"),
        "entity": wandb.get("entity"),
        "group": wandb.get("group") or hydra.get("sweep") or in_sweep or None,
        "job_type": wandb.get("job_type") or "train",
        # W&B's own limit is 128 characters.
        "name": scrub_message(name)[:128],
        "tags": [scrub_message(tag) for tag in tags],
        "notes": scrub_message(wandb.get("notes") or ""),
        "dir": str(folder),
        "id": source.identity,
    }
    return _scrubbed(found)


def with_variables(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields`, of which WANDB_* variables override each, without secrets."""
    found = {
        name: os.environ.get(variable) or fields.get(name) or None
        for name, variable in _VARIABLES.items()
    }
    if isinstance(found["tags"], str):
        found["tags"] = found["tags"].split(",")
    return _scrubbed(found)


def _scrubbed(fields: dict[str, Any]) -> dict[str, Any]:
    # An id may be a commit, which looks like a key.
    unchanged = {name: fields[name] for name in ("dir", "id")}
    return scrub({"wandb": fields})["wandb"] | unchanged


def wanted_mode(config: Mapping[str, Any]) -> str:
    """offline, online or disabled; the user's own variable wins."""
    wandb = config.get("wandb", {})
    return os.environ.get("WANDB_MODE") or wandb.get("mode", "disabled")
