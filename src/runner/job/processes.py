"""Several processes that train one run: who they are, and that they fail together.

Process 0 prepares data, writes the run folder and talks to W&B. Every process builds
the run, compiles it and feeds its own devices. They tell each other of failures through
the key-value store of JAX's coordinator.
"""

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner.config.explain import explain
from runner.config.ranges import check_ranges
from runner.config.rank import ALONE, Rank, rank
from runner.errors import ConfigError
from runner.record.files import to_json
from runner.trees import differences

FAILED = "runner/failed"
SHUTDOWN_SECONDS = 30
DRAIN_SECONDS = 10
LINGER_SECONDS = 1
# For a process that fails to end its run of W&B, before the others leave it alone.
LEAVE_MS = 600 * 1000
# How many answers are kept. Processes that train are at most a few calls apart.
AGREED = 64
PATIENCE_MS = 24 * 3600 * 1000  # for data, which may take hours to download


_rank = ALONE  # of this process, once it has been connected to the others
_agreed: deque[str] = deque()
_last_words: list[Callable[[str], None]] = []
_in_flight: Any = None
_ending = threading.Lock()  # held by what ends this process; never given back


def has_peers() -> bool:
    """Whether other processes train the same run."""
    return _rank.size > 1


def is_first() -> bool:
    """Whether this process prepares, writes and talks."""
    return _rank.process == 0


@contextlib.contextmanager
def connected(cfg: DictConfig) -> Iterator[None]:
    """Connect the processes of a run, if there are several, until its end.

    One that fails in the block tells the others, which then end too, with its message
    and exit status 1.

    Raises:
      ConfigError: the processes weren't started with the same configuration.
    """
    global _rank
    config = cfg.distributed
    check_ranges(cfg, ["distributed.timeout_seconds"])
    here = rank(config)
    if here.size == 1:
        yield
        return
    import jax

    _initialize(here, config.timeout_seconds)
    _rank = here
    threading.Thread(target=_watch, name="runner-peers", daemon=True).start()
    preempted = None
    try:
        _check_same(cfg, config.timeout_seconds)
        yield
    except SystemExit as stopped:  # preempted, as are all
        preempted = stopped
    except BaseException as error:
        _tell(error)
        raise
    # Process 0 may be waiting for W&B, longer than JAX would wait for it.
    with first_alone("end"):
        _ending.acquire()
    jax.distributed.shutdown()
    if preempted:
        raise preempted


def _initialize(here: Rank, seconds: int) -> None:
    import jax

    name = f"process {here.process} of {here.size}"
    where = f"at {here.address}" if here.address else "that the environment names"

    def give_up():
        # JAX would abort with a stack trace of C++, past any `except`.
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
            f"{name} can't be connected to the coordinator {where}: {error}"
        ) from error
    finally:
        timer.cancel()


def _client() -> Any:
    from jax._src import distributed  # there is no public name for this

    return distributed.global_state.client


def _check_same(cfg: DictConfig, seconds: int) -> None:
    """Refuse to train where two processes were told different things."""
    import jax

    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    mine = plain | {"version of jax": jax.__version__}
    client = _client()
    mine = to_json(mine)
    client.key_value_set(f"runner/config/{_rank.process}", json.dumps(mine))
    for other in range(_rank.size):
        text = client.blocking_key_value_get(f"runner/config/{other}", seconds * 1000)
        different = differences(mine, json.loads(text), "distributed".__eq__)
        for key, ours, its in different:
            raise ConfigError(
                f"processes of one run need one configuration, but {key} is {ours} on "
                f"process {_rank.process} and {its} on process {other}"
            )


@contextlib.contextmanager
def first_alone(what: str) -> Iterator[None]:
    """Process 0 goes through the block before any other enters it."""
    if not is_first():
        _client().blocking_key_value_get(f"runner/{what}", PATIENCE_MS)
    yield
    if has_peers() and is_first():
        _client().key_value_set(f"runner/{what}", "done")


def agreed(name: str, value: Any) -> Any:
    """What process 0 has as `value`, plain values, on every process.

    All call it, once with each `name`. It doesn't wait for a device.
    """
    if not has_peers():
        return value
    if is_first():
        _client().key_value_set(f"runner/{name}", json.dumps(value))
        _agreed.append(name)
        if len(_agreed) > AGREED:
            _client().key_value_delete(f"runner/{_agreed.popleft()}")
        return value
    return json.loads(_client().blocking_key_value_get(f"runner/{name}", PATIENCE_MS))


def barrier(name: str) -> None:
    """Wait until all processes are here."""
    if has_peers():
        _client().wait_at_barrier(f"runner/{name}", PATIENCE_MS)


def dispatched(results: Any) -> None:
    """Remember what a program will give that waits for other processes."""
    global _in_flight
    if has_peers():
        _in_flight = results


def _drain() -> None:
    """Let the programs end that this process has dispatched, as others have or will.

    A collective whose peer is gone would abort this process.
    """
    import jax

    thread = threading.Thread(target=jax.block_until_ready, args=[_in_flight])
    thread.daemon = True  # another that failed too may not have dispatched as many
    thread.start()
    thread.join(DRAIN_SECONDS)


def _tell(error: BaseException) -> None:
    """Let the others know that this process ends with `error`; ends after them."""
    if not _ending.acquire(blocking=False):
        threading.Event().wait()  # for _watch, which ends this process
    text = " ".join(explain(error).split()) if isinstance(error, Exception) else ""
    message = f"process {_rank.process} of {_rank.size} failed: {text or repr(error)}"
    with contextlib.suppress(Exception):  # another was first, or the coordinator's gone
        _client().key_value_set(FAILED, message)
    _drain()
    atexit.register(_leave_last)


def _leave_last() -> None:
    # The others may have dispatched more than this one, which waits for nothing.
    _shut_down()
    time.sleep(LINGER_SECONDS)
    _leave()


def _leave() -> None:
    """End this process, though a device may wait for others, and Python for it."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


def before_leaving(tell: Callable[[str], None]) -> None:
    """Have `tell` called with the message of another process that ends this one."""
    _last_words.append(tell)


def _watch() -> None:
    """End this process when another one fails, for which a collective may wait."""
    try:
        message = _client().blocking_key_value_get(FAILED, 10 * PATIENCE_MS)
    except Exception:
        return  # the run is over
    if _ending.acquire(blocking=False):
        print(f"error: {message}", file=sys.stderr, flush=True)
        for tell in _last_words:
            tell(message)
        _shut_down()
        _leave()


def _shut_down() -> None:
    """Wait until all have got here: JAX aborts those whose peers are gone."""
    import jax

    with contextlib.suppress(Exception):
        _client().wait_at_barrier("runner/leave", LEAVE_MS)
        jax.distributed.shutdown()
