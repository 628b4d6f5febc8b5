"""Draws the runs of a sweep: python figure.py SWEEP."""

import sys
from pathlib import Path

import polars as pl

from runner import compare_runs


def main(sweep: Path) -> None:
    found = compare_runs([sweep], by="optimizer")
    if not found.analysis.control.controlled:
        sys.exit(str(found))  # which says what else differs
    chart = found.figures["sensitivity"].properties(width=320, height=200)
    for kind in ("pdf", "png"):
        chart.save(f"figure.{kind}")
    keys = ["optimizer", "optimizer.learning_rate"]
    loss = pl.col("final.validation/loss")
    numbers = found.runs.table.group_by(keys).agg(
        mean=loss.mean(), deviation=loss.std(), runs=loss.count()
    )
    numbers.sort(keys).write_csv("numbers.csv")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
