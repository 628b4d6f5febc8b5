"""A comparison as a W&B artifact."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.errors import ConfigError
from runner.record.mirrors.wandb import begin, log_artifact
from runner.record.mirrors.wandb_fields import wanted_mode, with_variables
from runner.record.secrets import error_line

_SECONDS = 60  # of the upload


def log_report(
    title: str,
    page: Path,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    settings: Mapping[str, Any],
) -> str:
    """Log a page and a table as an artifact of type "report". Returns where it is.

    Args:
      title: such as "comparison by optimizer"; names the artifact, too.
      page: an HTML file, in whose folder W&B's offline files are kept.
      columns: of the table.
      rows: of the table, as many values as `columns` each.
      settings: those of `wandb` of the runs that are compared.

    Raises:
      ConfigError: W&B is disabled, or can't be reached.
    """
    mode = wanted_mode({"wandb": settings})
    if mode == "disabled":
        raise ConfigError(
            "--wandb-report: wandb=disabled in these runs or WANDB_MODE=disabled; set "
            "WANDB_MODE=offline or WANDB_MODE=online"
        )
    fields = {key: settings.get(key) for key in ("project", "entity")}
    fields |= {"job_type": "report", "name": title, "dir": str(page.absolute().parent)}
    try:
        import wandb

        run = begin(mode, with_variables(fields), {}, x_disable_stats=True)
        name = re.sub(r"[^\w.-]+", "-", title)
        report = wandb.Artifact(name, type="report")
        report.add_file(str(page))
        data = [list(row) for row in rows]
        table = wandb.Table(list(columns), data=data, allow_mixed_types=True)
        report.add(table, "runs")
        log_artifact(run, report, _SECONDS)
        run.finish()
    except Exception as error:
        raise ConfigError(f"--wandb-report: {error_line(error)}") from error
    return f"wandb sync {run.settings.sync_dir}" if run.offline else str(run.url)
