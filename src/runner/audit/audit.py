"""Runs a table, and where it doesn't come out again the values of its open factors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from runner.audit.runs import Done, Overrides, measured, outdated, runner
from runner.audit.table import Candidate, Table
from runner.audit.verdict import Explanation, Verdict, explain, judge


class Audit(NamedTuple):
    """All findings about a table, so that the terminal and the page agree.

    Attributes:
      table: what was published.
      verdicts: of its cells, in their order.
      explanations: of the values of its open factors, the best first; empty if nothing
        differs.
      runs: how many it took, those of earlier audits too.
      edited: the modules of one's own that are others than some of these runs had.
    """

    table: Table
    verdicts: tuple[Verdict, ...]
    explanations: tuple[Explanation, ...]
    runs: int
    edited: tuple[str, ...]

    @property
    def reproduced(self) -> bool:
        """Whether all cells are."""
        return all(v.outcome == "reproduced" for v in self.verdicts)

    @property
    def best(self) -> Explanation | None:
        """What alone explains most, if that is more than half of the differences."""
        best = self.explanations[0] if self.explanations else None
        return best if best and best.explained > 0.5 else None


def audit(table: Table, out: Path, config_dir: Path | None = None) -> Audit:
    """Run `table` in `out/runs`, where finished runs of an earlier audit are reused.

    Args:
      config_dir: a folder of the user's own YAML files.

    Raises:
      ConfigError: the table is wrong; names the file and the key, and nothing has run.
    """
    with runner(out / "runs", config_dir) as runs:
        steps = runs.steps(table)
        done = runs.run(map(table.overrides, table.cells), table.seeds)
        verdicts = _verdicts(table, steps, done)
        explanations = []
        if table.candidates and any(v.outcome == "differs" for v in verdicts):
            asked = [
                table.overrides(cell, candidate)
                for candidate in table.candidates
                for cell in table.cells
            ]
            done |= runs.run(asked, table.seeds)
            explanations = explain(
                verdicts,
                {c: _verdicts(table, steps, done, c) for c in table.candidates},
            )
    folders = {run.folder for run in done.values()}
    edited = tuple(outdated(done.values()))
    return Audit(table, tuple(verdicts), tuple(explanations), len(folders), edited)


def _verdicts(
    table: Table,
    steps: Mapping[str, int],
    done: Mapping[tuple[Overrides, int], Done],
    candidate: Candidate | None = None,
) -> Sequence[Verdict]:
    found = []
    for cell in table.cells:
        overrides, step = table.overrides(cell, candidate), steps[cell.name]
        ours = [measured(cell, done[overrides, seed]) for seed in table.seeds]
        found.append(judge(cell, step, ours, len(table.cells)))
    return found
