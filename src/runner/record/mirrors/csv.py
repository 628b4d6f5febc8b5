"""The mirror of a run as one CSV file."""

import csv
import os
from collections.abc import Mapping
from typing import Any

from runner.record.mirrors.tracker import Source, Tracker


class CsvTracker(Tracker):
    """metrics.csv in the run folder: a column for each metric, empty where it has none.

    It is written as a whole each time, so that it always has what metrics.jsonl has.
    """

    label = "CSV"

    def __init__(self, source: Source):
        super().__init__(source)
        self._path = source.folder / "metrics.csv"
        self._columns: list[str] = []
        self._file: Any = None
        self.where = str(self._path)

    def open(self) -> int:
        self._begin()
        return -1

    def row(self, row: Mapping[str, Any]) -> None:
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self._begin()
        self._writer.writerow(row)

    def _begin(self) -> None:
        """Write the header, and the rows so far below it."""
        self.close()
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, lineterminator="\n")
            writer.writeheader()
            if self._file:
                with self._path.open(newline="", encoding="utf-8") as earlier:
                    writer.writerows(csv.DictReader(earlier))
        os.replace(temporary, self._path)
        self._file = self._path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, self._columns, lineterminator="\n")

    def flush(self) -> None:
        self._file.flush()

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        self.close()

    def close(self) -> None:
        if self._file:
            self._file.close()
