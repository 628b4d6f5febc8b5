"""How a run can end early: by a user's mistake, or by a signal."""

import difflib
import os
import signal
from collections.abc import Iterable
from typing import Any

# sysexits.h's "temporary failure, try again later". Schedulers can be set to requeue
# a job that exits with it; a run exits with it for no other reason.
REQUEUE = 75


class ConfigError(Exception):
    """A configuration that can't run. The message names key, value and rule."""


class TrainingStopped(Exception):
    """A run that ended early for a reason its user can read, such as a NaN loss."""


class Refused(TrainingStopped):
    """A run that ended because it doesn't do what its configuration says."""


class Finished(Exception):
    """A run that its folder holds already, to the end. The message says with what."""

    def __init__(self, message: str, result: float):
        super().__init__(message)
        self.result = result


class Unwritable(TrainingStopped):
    """A run that ended because its folder can't be written. The message names what.

    Args:
      path: what can't be written.
      why: the system's reason.

    Attributes:
      safe: a sentence on what the run has left; empty if nobody knows.
    """

    def __init__(self, path: object, why: object):
        super().__init__(f"{path} can't be written: {why}")
        self.safe = ""

    def __str__(self) -> str:
        return f"{super().__str__()}. {self.safe}".removesuffix(". ")


class JobFailed(Exception):
    """A job failed in another process, which has already reported everything."""


class Preempted(SystemExit):
    """A run ended before its last step because of a signal, saved if possible.

    Its `code` is REQUEUE, or 130 after Ctrl-C.
    """

    def __init__(self, number: int, handler: Any = None):
        super().__init__(130 if number == signal.SIGINT else REQUEUE)
        self._number = number
        self._handler = handler

    def __str__(self) -> str:
        return signal.Signals(self._number).name

    def forward(self) -> None:
        """Call the handler that this one replaced, such as submitit's, which requeues.

        Only once everything is saved: it may end the process.
        """
        handler, self._handler = self._handler, None
        if callable(handler) and handler is not signal.default_int_handler:
            handler(self._number, None)


# Names of the first edition, and their names today.
RENAMED = {"loss": "task"}


def no_such_key(section: str, name: object, names: Iterable[str]) -> str:
    """The message for a key that a section of the configuration doesn't have."""
    if not section and name in RENAMED:
        return f"{name}= is called {RENAMED[str(name)]}= now"
    where = section or "the configuration"
    return f"{where} has no key {str(name)!r}; it has {', '.join(names) or 'none'}."


def refuse_one(name: str, value: object) -> None:
    """Refuse text or a path where a list of such is meant: its letters would be it.

    Raises:
      ConfigError: `value` is one.
    """
    if isinstance(value, str | os.PathLike):
        raise ConfigError(f"{name} must be a list, such as [{str(value)!r}]")


def few(names: Iterable[str], most: int = 8) -> str:
    """The first `most` of `names`, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The nearest of `names` as a sentence with a leading space, or nothing."""
    by_lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""
