"""Signals that ask this process to end, from its first moment on.

Python runs a handler only when its main thread gets there. That may be waiting for XLA,
or be in a callback that loses what is raised within it, as the one that JAX has in the
garbage collector does. So a thread of its own sees which signals come. It ends the
process, unless a training has begun that ends itself.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from runner.errors import Preempted

# Slurm and others send these before a time limit or preemption; submitit uses USR2. HUP
# comes from a terminal that is closed, except where `nohup` has a process ignore it.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2) + (
    () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
)
REACTION_SECONDS = 1.0  # after a second Ctrl-C
LEAVING_SECONDS = 5.0  # from a saved state on: XLA may compile for minutes
QUIET_SECONDS = 2.0  # for files that are just being written

# Says how the process ends, when it must; may return another exit status.
LastWord = Callable[[BaseException], int | None]

_words: dict[int, LastWord] = {}
_undisturbed = threading.RLock()
_ending = threading.Lock()  # never released
_is_watching = False
_trainings: list[object] = []  # that have begun, and end themselves


def watch() -> None:
    """Watch for signals, in the main thread of a process that is a run or a sweep."""
    global _is_watching
    coming, came = os.pipe()
    os.set_blocking(came, False)
    signal.set_wakeup_fd(came, warn_on_full_buffer=False)
    _is_watching = True
    take_back()
    threading.Thread(
        target=_follow, args=[coming], name="runner-signals", daemon=True
    ).start()
    atexit.register(_ignore)  # what comes first ends last


def take_back() -> None:
    """Set the handlers again, after a library has put its own in their place."""
    if _is_watching:
        for number in SIGNALS:
            signal.signal(number, _noted)


def is_watching() -> bool:
    """Whether this process ends by a signal, even where nothing handles it."""
    return _is_watching


def stand_back(handler: Any = signal.SIG_DFL) -> None:
    """Leave Ctrl-C to Python from now on, and the other signals to `handler`."""
    global _is_watching
    if _is_watching:
        _is_watching = False
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in SIGNALS[1:]:
            signal.signal(number, handler)


def raised(number: int, frame: object) -> NoReturn:
    """A handler for `stand_back`, where Python itself waits, and not for long."""
    raise Preempted(number)


def last_word(owner: object, word: LastWord | None) -> None:
    """Have `word` called if the process ends early; None if there is none any more.

    The last of them is called first, in a thread that isn't the main one.
    """
    _words.pop(id(owner), None)
    if word and _is_watching:
        _words[id(owner)] = word


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Write files that belong together: the process ends before or after the block."""
    with _undisturbed:
        yield


def begun(training: object) -> None:
    """A training has begun. It ends itself after a signal, once it has saved."""
    with _undisturbed:  # waits for the end, if the process is about to
        _trainings.append(training)


def over(training: object, error: BaseException | None) -> None:
    """A training is over: because of `error`, if it ended itself."""
    if training in _trainings:
        _trainings.remove(training)
    if _is_watching and isinstance(error, Preempted | KeyboardInterrupt):
        _later(LEAVING_SECONDS, error, lambda: True)


def leave(status: Any) -> NoReturn:
    """End the process now, where XLA may still compile in a thread."""
    if _is_watching:
        _exit(status)
    sys.exit(status)


def end(error: BaseException, whose: str = "") -> NoReturn:
    """End the process now because of a signal, with a last word from each owner.

    Args:
      error: says which.
      whose: of another process, that one.
    """
    if not _ending.acquire(blocking=False):  # another thread is doing it
        threading.Event().wait()
    _undisturbed.acquire(timeout=QUIET_SECONDS)
    status = error.code if isinstance(error, Preempted) else 130
    say(f"\n{str(error) or 'SIGINT'}{whose}: ending at once")
    for word in reversed(list(_words.values())):
        with contextlib.suppress(Exception):
            said = word(error)
            status = status if said is None else said
    _exit(status)


def say(line: str) -> None:
    """Print on stderr, also where whoever reads it has gone.

    Not by `print`, whose lock the thread that was interrupted may hold.
    """
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _noted(number: int, frame: object) -> None:
    """A handler in Python, without which no signal would reach `_follow`."""


def _follow(coming: int) -> None:
    is_first = True
    while True:
        number = os.read(coming, 1)[0]
        if number not in SIGNALS or not _is_watching:
            continue
        again = KeyboardInterrupt() if number == signal.SIGINT else Preempted(number)
        if not _trainings:
            end(Preempted(number) if is_first else again)
        elif number == signal.SIGINT and not is_first:
            training = _trainings[-1]
            _later(REACTION_SECONDS, again, lambda t=training: t in _trainings)
        is_first = False


def _later(seconds: float, error: BaseException, condition: Callable[[], bool]) -> None:
    def then() -> None:
        if condition():
            end(error)

    timer = threading.Timer(seconds, then)
    timer.daemon = True
    timer.start()


def _exit(status: Any) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed, or held by another thread
            stream.flush()
    os._exit(status)


def _ignore() -> None:
    """Python is at its end, and would set each signal to kill it once more."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
