"""Several processes that train one run: process identity, agreement and joint failure.

Process 0 prepares data, writes the run folder and talks to W&B. Every process builds
the run, compiles it and feeds its own devices. They report failures to each other
through the key-value store of JAX's coordinator.
"""

import atexit
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from omegaconf import DictConfig

from runner import signals
from runner.config.explain import explain
from runner.config.plain import plain
from runner.config.ranges import check_ranges
from runner.config.rank import ALONE, Rank, rank
from runner.errors import ConfigError, Preempted
from runner.job.common_stop import CommonStop
from runner.record.files import to_json
from runner.trees import differences

ENDED = "runner/ended"
SHUTDOWN_SECONDS = 30
DRAIN_SECONDS = 10
LINGER_SECONDS = 1
# The time for a failing process to end its W&B run before the others leave.
PATIENT_SECONDS = 600
# The time for the others to hear of a signal that ends one.
LEAVE_SECONDS = 10
# How many answers are kept. Processes that train are at most a few calls apart.
AGREED = 64
PATIENCE_MS = 24 * 3600 * 1000  # for data, which may take hours to download


class Processes:
    """The processes that train one run, seen from one of them. By default only one.

    A failure or a signal that ends one of them ends all.

    Args:
      rank: which of them this one is.
      last_words: called with the message of another process whose failure ends this
        one.
    """

    def __init__(
        self, rank: Rank = ALONE, last_words: Sequence[Callable[[str], None]] = ()
    ):
        self._rank = rank
        self._last_words = last_words
        self._agreed: deque[str] = deque()
        self._in_flight: Any = None
        self._stop: CommonStop | None = None
        # Held by whatever ends this process; never released.
        self._ending = threading.Lock()
        self._watching = threading.Thread(
            target=self._watch, name="runner-peers", daemon=True
        )

    @property
    def has_peers(self) -> bool:
        """Whether other processes train the same run."""
        return self._rank.size > 1

    @property
    def is_first(self) -> bool:
        """Whether this process prepares data, writes files and prints."""
        return self._rank.process == 0

    @property
    def _name(self) -> str:
        return f"process {self._rank.process} of {self._rank.size}"

    @contextlib.contextmanager
    def first_alone(self, what: str) -> Iterator[None]:
        """Let process 0 finish the block before any other process enters it."""
        if not self.is_first:
            _client().blocking_key_value_get(f"runner/{what}", PATIENCE_MS)
        yield
        if self.has_peers and self.is_first:
            _client().key_value_set(f"runner/{what}", "done")

    def agree(self, name: str, value: Any) -> Any:
        """Return process 0's `value`, a plain one, on every process.

        Every process calls it, once per `name`. It doesn't wait for a device.
        """
        if not self.has_peers:
            return value
        key = f"runner/{name}"
        if not self.is_first:
            return json.loads(_client().blocking_key_value_get(key, PATIENCE_MS))
        _client().key_value_set(key, json.dumps(value))
        self._agreed.append(key)
        if len(self._agreed) > AGREED:
            _client().key_value_delete(self._agreed.popleft())
        return value

    def barrier(self, name: str) -> None:
        """Wait until all processes have arrived."""
        if self.has_peers:
            _client().wait_at_barrier(f"runner/{name}", PATIENCE_MS)

    def dispatched(self, results: Any) -> None:
        """Remember results of a program that wait for other processes."""
        if self.has_peers:
            self._in_flight = results

    def check_same(self, cfg: DictConfig, seconds: int) -> None:
        """Refuse to train if two processes have different configurations.

        Raises:
          ConfigError: names the first difference.
        """
        import jax

        own = to_json(plain(cfg) | {"version of jax": jax.__version__})
        client = _client()
        client.key_value_set(f"runner/config/{self._rank.process}", json.dumps(own))
        for other in range(self._rank.size):
            key = f"runner/config/{other}"
            text = client.blocking_key_value_get(key, seconds * 1000)
            different = differences(own, json.loads(text), "distributed".__eq__)
            for key, ours, its in different:
                raise ConfigError(
                    f"processes of one run need one configuration, but {key} is {ours} "
                    f"on process {self._rank.process} and {its} on process {other}"
                )

    def watch(self) -> None:
        """End this process when another ends: a collective may be waiting for it."""
        signals.take_back()  # from JAX, which records them without telling Python
        signals.last_word(self, self._leave_together)
        self._stop = CommonStop(_client(), self._rank)
        self._watching.start()

    def stopping(self, calls: int, received: int | None) -> int | None:
        """The signal for which all processes stop after this call; None goes on.

        Args:
          calls: how many this process has begun.
          received: the signal that it has got, if any.
        """
        if self._stop is None:
            return received
        if received is not None:
            self._stop.ask(received)
        return self._stop.reached(calls)

    def _leave_together(self, error: BaseException) -> None:
        """End the others with this process, which a signal ends."""
        name = str(error) or "SIGINT"
        self._tell(f" to {self._name}", signal.Signals[name])
        _shut_down(LEAVE_SECONDS)

    def _tell(self, message: str, number: int | None = None) -> None:
        with contextlib.suppress(Exception):  # another was first, or no coordinator
            _client().key_value_set(ENDED, json.dumps([message, number]))

    def _watch(self) -> None:
        try:
            text = _client().blocking_key_value_get(ENDED, 10 * PATIENCE_MS)
        except Exception:
            return  # the run has ended
        message, number = json.loads(text)
        if self._ending.acquire(blocking=False):
            if number is not None:
                signals.end(Preempted(number), message)
            print(f"error: {message}", file=sys.stderr, flush=True)
            for say in self._last_words:
                say(message)
            _shut_down()
            _leave()

    def fail(self, error: BaseException) -> None:
        """Report `error`, which ends this process, to the others; exit after them."""
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()  # for `watch`, which ends this process
        text = " ".join(explain(error).split()) if isinstance(error, Exception) else ""
        self._tell(f"{self._name} failed: {text or repr(error)}")
        self._drain()
        atexit.register(_leave_last)

    def _drain(self) -> None:
        """Let dispatched work finish, which the other processes dispatch as well.

        A collective whose peer is gone would abort this process.
        """
        import jax

        thread = threading.Thread(target=jax.block_until_ready, args=[self._in_flight])
        thread.daemon = True  # another failed process may have dispatched less
        thread.start()
        thread.join(DRAIN_SECONDS)

    def end(self) -> None:
        """Leave when all processes have finished."""
        import jax

        # Process 0 may be waiting for W&B, longer than JAX would wait for it.
        with self.first_alone("end"):
            self._ending.acquire()
        jax.distributed.shutdown()
        # They leave C++ with an exception, which aborts a Python that is at its end.
        for thread in (self._watching, self._stop):
            if thread is not None:
                thread.join(SHUTDOWN_SECONDS)
        signals.last_word(self, None)


@contextlib.contextmanager
def connected(
    cfg: DictConfig, last_words: Sequence[Callable[[str], None]] = ()
) -> Iterator[Processes]:
    """Connect the processes of a run, if there are several, until its end.

    A process that fails in the block reports it to the others, which then end too,
    with its message and exit status 1. A signal to any of them before training ends all
    at once, and later at the same step.

    Args:
      cfg: the composed configuration.
      last_words: see `Processes`.

    Raises:
      ConfigError: the processes weren't started with the same configuration.
    """
    config = cfg.distributed
    check_ranges(cfg, ["distributed.timeout_seconds"])
    here = rank(config)
    if here.size == 1:
        yield Processes()
        return
    _initialize(here, config.timeout_seconds)
    processes = Processes(here, last_words)
    processes.watch()
    preempted = None
    try:
        processes.check_same(cfg, config.timeout_seconds)
        yield processes
    except SystemExit as stopped:  # preempted, like all the others
        preempted = stopped
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and signals.is_watching():
            signals.end(error)
        processes.fail(error)
        raise
    processes.end()
    if preempted:
        raise preempted


def _initialize(here: Rank, seconds: int) -> None:
    import jax

    name = f"process {here.process} of {here.size}"
    where = f"at {here.address}" if here.address else "that the environment names"

    def give_up():
        # JAX would abort with a C++ stack trace, which no `except` catches.
        print(
            f"error: {name}: not all processes came up within {seconds} s "
            f"(distributed.timeout_seconds); process 0 is the coordinator {where}. "
            "Check that all were started, and that they can reach it",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    given = {}
    if here.address:
        given = {
            "coordinator_address": here.address,
            "num_processes": here.size,
            "process_id": here.process,
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=seconds + 60,
            heartbeat_timeout_seconds=seconds,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except Exception as error:
        raise ConfigError(
            f"{name} can't connect to the coordinator {where}: {error}"
        ) from error
    finally:
        timer.cancel()


def _client() -> Any:
    from jax._src import distributed  # there is no public name for this

    return distributed.global_state.client


def _leave_last() -> None:
    # The others may still wait for work that they dispatched; this one doesn't.
    _shut_down()
    time.sleep(LINGER_SECONDS)
    _leave()


def _leave() -> None:
    """End this process, even if a device waits for others and Python for it."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


def _shut_down(seconds: int = PATIENT_SECONDS) -> None:
    """Wait until all have arrived: JAX aborts processes whose peers are gone."""
    import jax

    with contextlib.suppress(Exception):
        _client().wait_at_barrier("runner/leave", seconds * 1000)
        jax.distributed.shutdown()
