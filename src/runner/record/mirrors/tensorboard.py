"""The mirror of a run as event files, which TensorBoard reads."""

import importlib
import json
import time
from collections.abc import Mapping
from typing import Any

from runner.record.mirrors.tracker import Source, Tracker, tested

_SUFFIX = ".runner"


class TensorBoardTracker(Tracker):
    """The run folder's tensorboard/: a scalar for each metric, and the configuration.

    It is written as a whole each time, so that it always has what metrics.jsonl has.
    """

    label = "TensorBoard"
    package = "tensorboardX"

    def __init__(self, source: Source):
        super().__init__(source)
        self._folder = source.folder / "tensorboard"
        self._writer: Any = None
        self.where = f"tensorboard --logdir {self._folder}"

    def open(self) -> int:
        self._summary = importlib.import_module(f"{self.package}.summary")
        self._events = importlib.import_module(f"{self.package}.proto.event_pb2")
        writer = importlib.import_module(f"{self.package}.event_file_writer")

        self._folder.mkdir(exist_ok=True)
        for path in self._folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
            path.unlink()
        # Without its thread, in which an error would be lost.
        self._writer = writer.EventsWriter(str(self._folder / "events"), _SUFFIX)
        config = json.dumps(self.source.config, indent=2)
        self._write("config", "text", "    " + config.replace("\n", "\n    "), 0)
        return -1

    def row(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name != "step":
                self._write(name, "scalar", value, row["step"])

    def _write(self, name: str, kind: str, value: Any, step: int) -> None:
        made = getattr(self._summary, kind)(name, value)
        event = self._events.Event(wall_time=time.time(), step=step, summary=made)
        self._writer.write_event(event)

    def flush(self) -> None:
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        for name, value in tested(summary).items():
            if isinstance(value, int | float):
                self._write(name, "scalar", value, summary["steps"])
        self.close()

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer:
            writer.close()
