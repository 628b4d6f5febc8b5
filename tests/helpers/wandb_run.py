"""What W&B's offline file says of a run."""

from pathlib import Path
from typing import Any

from runner.record.mirrors.wandb_reader import _records, read_run


def wandb_run(path: Path) -> dict[str, Any]:
    """What runner reads of it, and the fields that only W&B shows."""
    with path.open("rb") as file:
        *_, fields = [found for kind, found in _records(file, path) if kind == "run"]
    return read_run(path) | {
        "id": fields.run_id,
        "name": fields.display_name,
        "project": fields.project,
        "group": fields.run_group,
        "job_type": fields.job_type,
        "tags": list(fields.tags),
    }
