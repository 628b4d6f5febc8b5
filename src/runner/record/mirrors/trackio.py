"""The mirror of a run in Trackio's database."""

import datetime
import importlib
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from runner.record.mirrors.tracker import Source, Tracker, tested
from runner.record.mirrors.wandb_fields import fields

# Rows wait for each other, for each write to the database costs 5 ms of CPU.
_ROWS, _SECONDS = 1000, 5.0
# Trackio gives up a database that another thread or process has locked for 10 s.
_writing = threading.Lock()


class TrackioTracker(Tracker):
    """A run in the folder of all of Trackio's projects, TRACKIO_DIR.

    Its project, group and name are those of `wandb`. It is written as a whole each
    time, by Trackio's storage: its client, made for the process that trains, only warns
    of rows that it loses. `trackio sync` brings the project to a Space.
    """

    label = "Trackio"
    package = "trackio"

    def __init__(self, source: Source):
        super().__init__(source)
        names = fields(source)
        self._project = names["project"] or "runner"
        self._name = names["name"] or source.folder.absolute().name
        made = datetime.datetime.now(datetime.UTC).isoformat()
        own = {"_Group": names["group"], "_Created": made}  # as its client calls them
        provenance = {"provenance": dict(source.provenance)}
        self._config = {**source.config, **provenance, **own}
        self._rows: list[dict[str, Any]] = []
        self._written = 0.0  # when
        self.where = f"trackio show --project {self._project}"
        if folder := os.environ.get("TRACKIO_DIR"):
            self.where = f"TRACKIO_DIR={folder} {self.where}"

    def open(self) -> int:
        utils = importlib.import_module(f"{self.package}.utils")
        if utils.get_storage_mode() != "sqlite":
            raise OSError(
                f"{utils.TRACKIO_DIR} is on a network file system, where several "
                "writers may spoil Trackio's database: set TRACKIO_DIR to a local "
                "folder, or TRACKIO_STORAGE_MODE=sqlite"
            )
        storage = importlib.import_module(f"{self.package}.sqlite_storage")
        self._storage = storage.SQLiteStorage
        own = (self._project, self._name, self.source.identity)
        with _writing:
            self._storage.delete_run(*own)  # which says False whatever is wrong
            if self._storage.get_max_step_for_run(*own) is not None:
                raise OSError(f"the rows in {utils.TRACKIO_DIR} can't be replaced")
        return -1

    def row(self, row: Mapping[str, Any]) -> None:
        self._rows.append(dict(row))
        if len(self._rows) >= _ROWS:
            self._write()

    def flush(self) -> None:
        if self._rows and time.monotonic() - self._written > _SECONDS:
            self._write()

    def _write(self) -> None:
        rows, self._rows = self._rows, []
        self._written = time.monotonic()
        with _writing:
            self._storage.bulk_log(
                self._project,
                self._name,
                steps=[row.pop("step") for row in rows],
                metrics_list=rows,
                config=self._config,
                run_id=self.source.identity,
            )

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        step = summary.get("steps", 0)
        if numbers := tested(summary):
            self._rows.append({"step": step, **numbers})
        self._write()
        if summary["status"] != "finished":
            self._storage.bulk_alert(
                self._project,
                self._name,
                titles=[summary["status"]],
                texts=[summary.get("error")],
                levels=["warn"],
                steps=[step],
                run_id=self.source.identity,
            )
