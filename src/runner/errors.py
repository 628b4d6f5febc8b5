"""How a run can end early: by a user's mistake, or by a signal."""

import contextlib
import difflib
import os
import re
import signal
from collections.abc import Iterable, Mapping, Sequence
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


class InPart:
    """Whose mistake it is what a library raises, called by a part of a configuration.

    `with InPart("model"): ...` notes that on what is raised. A message then names the
    part, where no frame is of its own code: layers of flax in an `nnx.Sequential`, say.

    Args:
      key: the part's, such as "model" or "metrics.f1"; empty: that of what is
        around it.
    """

    def __init__(self, key: str):
        self.key = key

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            here = "", trace.tb_frame.f_code.co_filename
            key, where = getattr(error, "runner_part", here)
            with contextlib.suppress(AttributeError):  # an exception with slots
                error.runner_part = key or self.key, where  # pyright: ignore[reportAttributeAccessIssue]


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
    """Refuse what is no list of texts or paths. The letters of a text would be one.

    Raises:
      ConfigError: `value` is one text or path, a mapping, or a list of other things.
    """
    such: Any = None
    if isinstance(value, str | os.PathLike):
        such = words = str(value).split()
        if not all("=" in word for word in words):  # a path may have spaces
            such = [str(value)]
    elif isinstance(value, Mapping):
        such = [f"{key}={each}" for key, each in value.items()]
    if such is not None:
        raise ConfigError(f"{name} must be a list, such as {such}")
    for each in value if isinstance(value, Sequence) else ():
        if not isinstance(each, str | os.PathLike):
            raise ConfigError(f"{name} must be a list of text, and has {what_is(each)}")


def few(names: Iterable[str], most: int = 8) -> str:
    """The first `most` of `names`, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def what_is(thing: Any) -> str:
    """What `thing` is, for a message: `None`, `a tuple`, `the class Metric`."""
    if hasattr(thing, "shape"):
        return f"an array of shape {thing.shape}"
    if thing is None or isinstance(thing, str | int | float):
        return repr(thing)
    if isinstance(thing, type):
        return f"the class {thing.__name__}"
    name = type(thing).__name__
    return f"a{'n' if name[0] in 'AEIOUaeiou' else ''} {name}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The nearest of `names` as a sentence with a leading space, or nothing.

    That is the one that is spelled nearly like `name`, or else those that have most of
    its words: `max_epochs` is nearest to `train.epochs`, and `lr` to `learning_rate`.
    """
    names = list(dict.fromkeys(names))
    return one_of(
        spelled_like(name, names)
        or with_words_of(name, names)
        or spelled_like(name, names, 0.6)
    )


def one_of(found: Sequence[str]) -> str:
    """The sentence with these names; nothing if there are none."""
    return f" Did you mean {' or '.join(map(repr, found))}?" if found else ""


def spelled_like(name: str, names: Iterable[str], cutoff: float = 0.75) -> list[str]:
    """The one of `names` that is spelled most like `name`, if it is so at all."""
    by_lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return [by_lower[n] for n in close]


def with_words_of(name: str, names: Iterable[str], least: float = 0.0) -> list[str]:
    """Those of `names`, best first, whose last part has the most words of `name`.

    Args:
      least: the share of words that the best must have.
    """
    shared = {n: _shared(name, n.rpartition(".")[2]) for n in names}
    most = max(shared.values(), default=0.0)
    if most < least:
        return []
    # A second may be what was meant; more than three are no help.
    likely = [n for n in shared if shared[n] >= 0.75 * most > 0]
    likely.sort(key=lambda n: -shared[n])
    return likely if len(likely) <= 3 else []


def _shared(name: str, other: str) -> float:
    """The share of words that both have, from 0 to 1; 1 for initials."""
    mine, others = _words(name), _words(other)
    if len(others) > 1 and mine == ["".join(word[0] for word in others)]:
        return 1.0
    short = 3 if len(mine) == 1 else 4  # the letters of an abbreviation
    both = sum(any(_is_same(word, w, short) for w in others) for word in mine)
    return both / max(len(mine) + len(others) - both, 1)


def _words(name: str) -> list[str]:
    parts = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)
    return [part.lower() for part in parts]


def _is_same(mine: str, word: str, short: int) -> bool:
    """Whether `mine` is `word`, short for it, or another form of it."""
    if mine == word or mine[:6] == word[:6] != mine[:5]:
        return True
    is_short = len(mine) >= short and word.startswith(mine)
    return is_short or (len(word) >= 4 and mine.startswith(word))
