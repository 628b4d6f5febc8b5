"""Runs trained as one population, and how close that is to each of them alone."""

from helpers.training import SESSION, train_run
from runner.core.mesh import population_size
from runner.core.run import Host, Run
from runner.core.train import train

# Of a value, or of 1 if it is smaller. XLA orders the sums of a batched product in its
# own way, and optimizers make more or less of that.
TOLERANCE = 1e-4


def together(
    runs: list[Run], members: int | None = None
) -> tuple[list[list[dict]], dict[int, Exception]]:
    """Rows of each run, and the errors by its index."""
    size = population_size(runs[0].spec.mesh.devices, members or len(runs))
    run = runs[0]
    compiled = SESSION.program(run.spec, run.values, run.timetable, size)
    rows = [[] for _ in runs]
    host = Host(lambda index, row: rows[index].append(row))
    errors = dict(train(compiled, runs, host))
    return rows, errors


def alone(run: Run) -> list[dict]:
    rows = []
    train_run(run, rows.append)
    return rows


def assert_close(
    rows: list[dict], wanted: list[dict], tolerance: float = TOLERANCE
) -> None:
    assert [r["step"] for r in rows] == [r["step"] for r in wanted]
    for row, other in zip(rows, wanted, strict=True):
        assert row.keys() == other.keys()
        for key in row.keys() - {"time/steps_per_second"}:
            scale = max(abs(other[key]), 1)
            off = abs(row[key] - other[key]) / scale
            assert off <= tolerance, f"{key} at step {row['step']} is off by {off:.1e}"
