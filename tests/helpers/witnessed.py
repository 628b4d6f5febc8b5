"""Runs that are trained in this process with a witness."""

from helpers.training import SESSION
from runner.core.mesh import population_size
from runner.core.run import Host, Run
from runner.core.train import train
from runner.job.witness import witness_of


def witnessed(*runs: Run, packed: bool = False) -> tuple[list[dict], list[dict]]:
    """Train `runs`, together if there are several, though verify=false.

    Returns:
      the rows of the first, and what the witness has seen.

    Raises:
      Refused: it found a difference.
    """
    first = runs[0]._replace(config=runs[0].config | {"verify": True})
    packed = packed or len(runs) > 1
    size = population_size(first.spec.mesh.devices, len(runs)) if packed else None
    program = SESSION.program(first.spec, first.values, first.timetable, size)
    witness = witness_of([first, *runs[1:]], program, 0, SESSION)
    rows = []
    host = Host(lambda index, row: rows.append(row) if index == 0 else None)
    for _, error in train(program, runs, host, witness=witness):
        if error:
            raise error
    return rows, witness.seen
