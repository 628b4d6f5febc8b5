"""Jobs of one program and timetable, cut into populations."""

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

from runner.core.run import Run
from runner.job.session import Session
from runner.sweep.member import Member
from runner.sweep.population import (
    Closing,
    compile_for,
    train_alone,
    train_together,
)
from runner.sweep.population_checkpoints import left_over


class PopulationQueue:
    """Trains members, a population at a time, while those after them are built.

    Args:
      most: members of a population; `auto` is the fastest size that fits in memory.
      session: of the sweep.
      closing: closes the jobs.
      sweep: the folder in which populations are saved.
      compiling: gives the size of the populations for the expected number of members
        when their program is compiled; None if it isn't compiled ahead.
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
        # Begun by an earlier process. What is left of its populations is resumed when
        # all of them have been added.
        self._begun: list[Member] = []
        self._size = 0  # of the populations that were trained

    def add(self, member: Member) -> None:
        """Add `member`, and train members that fill a population."""
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
        """Train the remaining members: no more are added."""
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
        except Exception as error:  # fails the group, not the sweep
            for member in self._members:
                if member.open():
                    self._closing.submit(member.close, error)
            return
        while self._members:
            self._train()

    def _train_left_over(self) -> None:
        saved, others = left_over(self._sweep, self._begun)
        self._members += others
        for one in saved:
            train_together(
                one.names,
                one.active,
                one.size,
                self._session,
                self._closing,
                self._sweep,
                one.start,
            )

    def _train(self) -> None:
        part = self._members[: self._size]
        self._members = self._members[self._size :]
        for member in part:
            # XLA sums in another order than for a single run.
            member.prepared.recorder.provenance["members"] = len(part)
        names = [member.job.fingerprint for member in part]
        train_together(
            names,
            dict(enumerate(part)),
            self._size,
            self._session,
            self._closing,
            self._sweep,
            None,
        )


def group_key(run: Run) -> Any:
    """A key that is equal in runs that can be members of one population."""
    keeps = run.config["checkpoint"], run.config["objective"]
    return run.spec.key, run.timetable, json.dumps(keeps)
