"""Several processes that train one run: who they are, and that they fail together.

Process 0 prepares data, writes the run folder and talks to W&B. Every process builds
the run, compiles it and feeds its own devices. They tell each other of failures through
the key-value store of JAX's coordinator.
"""

import atexit
import contextlib
import functools
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from runner.config.explain import explain
from runner.errors import ConfigError
from runner.record.files import to_json
from runner.settings import DistributedSettings
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


class Place(NamedTuple):
    """A process among those of its run. `address` is None where JAX finds it."""

    rank: int
    size: int
    address: str | None


ALONE = Place(0, 1, None)
_place = ALONE  # of this process, once it has been connected to the others
_agreed: deque[str] = deque()
_last_words: list[Callable[[str], None]] = []
_in_flight: Any = None
_ending = threading.Lock()  # held by what ends this process; never given back


def place(config: DistributedSettings) -> Place:
    """Which process this is, as the `distributed` section or the environment says.

    Raises:
      ConfigError: the section is incomplete or contradicts itself.
    """
    given = {
        name: getattr(config, name)
        for name in ("coordinator_address", "num_processes", "process_id")
    }
    missing = [name for name, value in given.items() if value is None]
    if not config.enabled:
        return ALONE
    if len(missing) == 3:
        return _detected()
    if missing:
        raise ConfigError(
            f"distributed.{missing[0]} must be given with "
            f"distributed.{next(n for n in given if n not in missing)}, on each process"
        )
    address, count, index = given.values()
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(
            f"distributed.coordinator_address={address} must be the host:port of "
            "process 0"
        )
    if not 0 <= index < count:
        raise ConfigError(
            f"distributed.process_id={index} must be from 0 to "
            f"distributed.num_processes={count} less 1"
        )
    return Place(index, count, address) if count > 1 else ALONE


@functools.cache
def _detected() -> Place:
    """What `jax.distributed.initialize` would find by itself."""
    from jax._src.clusters import ClusterEnv  # there is no public name for this

    for env in ClusterEnv._cluster_types:
        if not env.opt_in_only_method and env.is_env_present():
            count = env.get_process_count()
            return Place(env.get_process_id(), count, None) if count > 1 else ALONE
    return ALONE


def by_process(first: Any, others: Any, *, _root_: DictConfig) -> Any:
    """`${by_process:A,B}`: A on process 0 and where there is one only, B elsewhere."""
    return others if place(_root_.distributed).rank else first


def has_peers() -> bool:
    """Whether other processes train the same run."""
    return _place.size > 1


def is_first() -> bool:
    """Whether this process prepares, writes and talks."""
    return _place.rank == 0


@contextlib.contextmanager
def connected(cfg: DictConfig) -> Iterator[None]:
    """Connect the processes of a run, if there are several, until its end.

    One that fails in the block tells the others, which then end too, with its message
    and exit status 1.

    Raises:
      ConfigError: the processes weren't started with the same configuration.
    """
    global _place
    config = cfg.distributed
    if config.timeout_seconds < 1:
        raise ConfigError(
            f"distributed.timeout_seconds={config.timeout_seconds} must be at least 1"
        )
    here = place(config)
    if here.size == 1:
        yield
        return
    import jax

    _initialize(here, config.timeout_seconds)
    _place = here
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


def _initialize(here: Place, seconds: int) -> None:
    import jax

    name = f"process {here.rank} of {here.size}"
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
            "process_id": here.rank,
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
    client.key_value_set(f"runner/config/{_place.rank}", json.dumps(mine))
    for other in range(_place.size):
        text = client.blocking_key_value_get(f"runner/config/{other}", seconds * 1000)
        different = differences(mine, json.loads(text), "distributed".__eq__)
        for key, ours, its in different:
            raise ConfigError(
                f"processes of one run need one configuration, but {key} is {ours} on "
                f"process {_place.rank} and {its} on process {other}"
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
    message = f"process {_place.rank} of {_place.size} failed: {text or repr(error)}"
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
