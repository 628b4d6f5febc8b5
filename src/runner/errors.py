"""Mistakes of a user, told in one message and without a traceback."""

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """A configuration that can't run. The message names key, value and rule."""


class TrainingStopped(Exception):
    """A run that ended early for a reason its user can read, such as a NaN loss."""


class JobFailed(Exception):
    """A job failed in another process, which has told all there is to tell."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The nearest of `names` as a sentence that starts with a blank, or nothing."""
    by_lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""
