"""The mirror of a run as event files, which TensorBoard reads."""

import importlib
import json
import logging
import math
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runner.record.mirrors.tracker import Source, Tracker, tested

_SUFFIX = ".runner"
_CODE = "    "  # what Markdown shows as it is


class TensorBoardTracker(Tracker):
    """The run folder's tensorboard/: a scalar for each metric, and the configuration.

    Of callbacks the images and texts, of lists in rows those that count in buckets.

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
        # It warns of each NaN, which a row may have.
        logging.getLogger(f"{self.package}.x2num").setLevel(logging.ERROR)

        self._folder.mkdir(exist_ok=True)
        for path in self._folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
            path.unlink()
        # Without its thread, in which an error would be lost.
        self._writer = writer.EventsWriter(str(self._folder / "events"), _SUFFIX)
        config = json.dumps(self.source.config, indent=2)
        self._write(0, "config", "text", textwrap.indent(config, _CODE))
        return -1

    def row(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if isinstance(value, list):
                self._write_histogram(name.removesuffix("/counts"), value, row)
            elif name != "step":
                self._write(row["step"], name, "scalar", value)

    def _write_histogram(self, name: str, counts: list, row: Mapping[str, Any]) -> None:
        """A list, if it is what the probe `histogram` counts in buckets."""
        low, high = (row.get(f"{name}/{bound}", math.nan) for bound in ("low", "high"))
        if not all(map(math.isfinite, [low, high, *counts])):
            return
        edges = np.linspace(low, high, len(counts) + 1)
        total = sum(counts)
        sums = np.dot(edges[1:], counts), np.dot(edges[1:] ** 2, counts)  # about
        given = low, high, total, *sums, edges[1:].tolist(), counts
        self._write(row["step"], name, "histogram_raw", *given)

    def file(self, path: Path, step: int) -> None:
        name = f"files/{path.parent.name}{path.name.removeprefix(str(step))}"
        if path.suffix in (".png", ".jpg", ".jpeg"):
            from PIL import Image

            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._write(step, name, "image", pixels, 1, "HWC")
        elif path.suffix in (".txt", ".md", ".csv"):
            text = path.read_text(encoding="utf-8", errors="replace")
            self._write(step, name, "text", textwrap.indent(text, _CODE))

    def _write(self, step: int, name: str, kind: str, *values: Any) -> None:
        made = getattr(self._summary, kind)(name, *values)
        event = self._events.Event(wall_time=time.time(), step=step, summary=made)
        self._writer.write_event(event)

    def flush(self) -> None:
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        for name, value in tested(summary).items():
            if isinstance(value, int | float):
                self._write(summary["steps"], name, "scalar", value)
        self.close()

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer:
            writer.close()
