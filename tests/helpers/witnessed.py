"""Runs that are trained in this process with a witness."""

from helpers.training import SESSION
from runner.core.mesh import population_size
from runner.core.run import Host, Run
from runner.core.train import train
from runner.job import witness as job_witness


def facts_of(run: Run) -> dict:
    """Train `run`; what its summary says about its witness."""
    facts = {}
    witnessed(run, facts=facts)
    return facts


def witnessed(
    *runs: Run, errors: dict[int, Exception] | None = None, facts: dict | None = None
) -> tuple[list[dict], list[dict]]:
    """Train `runs`, together if there are several, though verify=false.

    Args:
      errors: gets the error of each run that has one, by its index.
      facts: gets what their summaries say about the witness.

    Returns:
      the rows of the first, and what the witness has seen.

    Raises:
      Refused: it found a difference.
    """
    first = runs[0]._replace(config=runs[0].config | {"verify": True})
    size = None
    if len(runs) > 1:
        size = population_size(first.spec.mesh.devices, len(runs))
    program = SESSION.program(first.spec, first.values, first.timetable, size)
    witness = job_witness.witness_of([first, *runs[1:]], program, 0, SESSION)
    rows = []
    host = Host(lambda index, row: rows.append(row) if index == 0 else None)
    found = dict(train(program, runs, host, witness=witness))
    if errors is not None:
        errors.update(found)
    for error in filter(None, found.values()):
        raise error
    if facts is not None:
        facts.update(job_witness.witness_facts(witness))
    return rows, getattr(witness, "seen", [])
