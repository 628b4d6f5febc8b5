"""A signal to one process of a run ends all, with one status."""

import signal
import threading
import time

import pytest

from helpers.peers import started
from helpers.signalled import ENDINGS, status, wait_until_handled
from runner.config.rank import Rank
from runner.job.common_stop import CommonStop

NIGHT = pytest.mark.nightly


@pytest.mark.parametrize(
    ("number", "who", "pattern", "seconds"),
    [
        (signal.SIGTERM, [1], "run/config.json", 0.5),
        *(
            pytest.param(number, who, pattern, seconds, marks=NIGHT)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
            for who, pattern, seconds in (
                ([0, 1], "", 0.0),
                ([0, 1], "", 1.0),
                ([0], "run/config.json", 0.0),
                ([0, 1], "run/config.json", 2.0),
                ([0], "run/checkpoints/*", 0.0),
                ([1], "run/checkpoints/*", 0.0),
                ([1, 0], "run/checkpoints/*", 1.0),
            )
        ),
    ],
)
def test_at_any_moment(tmp_path, number, who, pattern, seconds):
    processes = started(
        tmp_path, 2, "train.epochs=null", "train.steps=100000",
        "train.eval_every_steps=100000", "checkpoint.every_steps=10",
    )  # fmt: skip
    try:
        for process in processes:
            wait_until_handled(process)
        while pattern and not list(tmp_path.glob(pattern)):
            assert processes[0].poll() is None, processes[0].communicate()
            time.sleep(0.02)
        time.sleep(seconds)
        for i in who:
            processes[i].send_signal(number)
        said = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    expected = ENDINGS.get(number, 75)
    assert [process.returncode for process in processes] == [expected] * 2, said
    assert "Traceback" not in "".join(said) and number.name in said[who[0]]
    begun = (tmp_path / "run").exists()
    assert status(tmp_path / "run") == ("preempted" if begun else None)
    assert begun or not pattern


class Store:
    """As much of JAX's coordinator as is needed, for threads."""

    def __init__(self):
        self.values: dict[str, str] = {}
        self.changed = threading.Condition()

    def key_value_set(self, key: str, value: str) -> None:
        with self.changed:
            if key in self.values:
                raise ValueError(key)
            self.values[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key: str, timeout: int) -> str:
        with self.changed:
            self.changed.wait_for(lambda: key in self.values)
            return self.values[key]


def test_they_stop_after_a_call_that_none_has_begun():
    store = Store()
    stops = [CommonStop(store, Rank(i, 3, None)) for i in range(3)]
    for stop, calls in zip(stops, (4, 6, 5), strict=True):
        assert stop.reached(calls) is None
    stops[0].ask(signal.SIGUSR1)
    stops[2].ask(signal.SIGTERM)  # too late: they know one reason
    while not {f"runner/stop/{i}" for i in range(3)} <= store.values.keys():
        time.sleep(0.001)
    for stop, calls in zip(stops, (5, 7, 6), strict=True):
        told = [stop.reached(n) for n in range(calls, 8)]
        assert told == [None] * (7 - calls) + [signal.SIGUSR1]
