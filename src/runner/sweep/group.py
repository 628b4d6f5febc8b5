"""Jobs of one program and timetable, cut into populations."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

from runner.core.program import Population
from runner.core.run import Run
from runner.job.session import Session
from runner.sweep.member import Member
from runner.sweep.population import (
    Closing,
    compile_for,
    longest_call,
    train_alone,
    train_together,
)
from runner.sweep.population_checkpoints import left_over


class Group:
    """Trains its members, a population at a time, while those after them are built.

    Args:
      most: how many train at a time; `auto` is what is fastest, and the memory allows.
      session: of the sweep.
      closing: ends the jobs.
      sweep: the folder in which populations are saved.
      compiling: ends with the size of the populations, for as many members as are
        expected, when their program is compiled; None if it isn't ahead of them.
    """

    def __init__(
        self,
        most: int | Literal["auto"],
        session: Session,
        closing: Closing,
        sweep: Path,
        compiling: Future[int] | None,
    ):
        self._most: int | Literal["auto"] = most
        self._session = session
        self._closing = closing
        self._sweep = sweep
        self._compiling = compiling
        self._members: list[Member] = []
        # An earlier process began these. What is left of its populations is looked for
        # when all of them are there.
        self._begun: list[Member] = []
        self._size = 0  # of the populations that were trained

    def add(self, member: Member) -> None:
        """Take `member`, and train those that are a whole population."""
        if member.prepared.recorder.kept:
            self._begun.append(member)
            return
        self._members.append(member)
        ahead = self._compiling
        if not ahead or not ahead.done() or ahead.exception():
            return
        size = ahead.result()
        while size > 1 and len(self._members) >= size:
            self._size = size
            self._train()

    def finish(self) -> None:
        """Train the others: no more come."""
        if self._begun:
            self._train_left_over()
        if not self._members:
            return
        if len(self._members) == 1 and not self._size:
            train_alone(self._members[0], self._session, self._closing)
            return
        try:
            if not self._size:
                run, count = self._members[0].run, len(self._members)
                self._size = compile_for(run, count, self._most, self._session)
        except Exception as error:  # the group's, not the sweep's
            for member in self._members:
                if member.open():
                    self._closing.submit(member.close, error)
            return
        while self._members:
            self._train()

    def _train_left_over(self) -> None:
        longest = longest_call(self._begun[0].run)
        saved, others = left_over(self._sweep, self._begun, longest)
        self._members += others
        for one in saved:
            run = next(iter(one.active.values())).run
            compiled = self._session.program(run.spec, run.values, one.population)
            train_together(
                one.names,
                one.active,
                compiled,
                self._session,
                self._closing,
                self._sweep,
                one.start,
            )

    def _train(self) -> None:
        run = self._members[0].run
        population = Population(self._size, longest_call(run))
        compiled = self._session.program(run.spec, run.values, population)
        part = self._members[: self._size]
        self._members = self._members[self._size :]
        for member in part:
            # XLA adds up in another order than for one run alone.
            member.prepared.recorder.provenance["members"] = len(part)
        names = [member.job.fingerprint for member in part]
        train_together(
            names,
            dict(enumerate(part)),
            compiled,
            self._session,
            self._closing,
            self._sweep,
            None,
        )


def group_key(run: Run) -> Any:
    """Equal in runs that can be members of one population."""
    return run.spec.key, run.timetable
