"""The witness of a job, or of a population's, and what their records say of it."""

from collections.abc import Sequence
from typing import Any

import jax

from runner.checks.agreement import Agreement, rounding
from runner.checks.witness import Recomputing
from runner.core.program import Program, init
from runner.core.run import BLIND, Run, Witness
from runner.job.memory import free_bytes
from runner.job.session import Session


def witness_of(
    runs: Sequence[Run], program: Program, start: int, session: Session
) -> Witness:
    """What watches `runs`, which train together from step `start` on.

    With verify=false nothing does.

    Raises:
      ConfigError: the pipeline uses none of the forms of its model.
    """
    run = runs[0]
    if not any(each.config["verify"] for each in runs):
        return BLIND
    precision = run.config["precision"]
    platform = jax.default_backend()
    spec, values = run.spec, run.values
    initial = session.keep(("init", spec.key), lambda: init(spec, values)).result()
    return Recomputing(
        program,
        runs,
        start,
        Agreement(rounding(precision["compute"], precision["matmul"], platform)),
        initial,
        free_bytes,
        session.processes.agree,
        session.keep,
    )


def witness_facts(witness: Witness) -> dict[str, Any]:
    """What the summary of a run says about its witness."""
    if isinstance(witness, Recomputing):
        still = {"unchanged": witness.unchanged} if witness.unchanged else {}
        return {"witnesses": witness.seen} | still
    return {"witnesses": "none: verify=false"}
