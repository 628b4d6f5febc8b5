"""The files of tasks, damaged: one message that names the file."""

import pytest

from runner.cluster.events import Tail
from runner.cluster.plan import Plan
from runner.cluster.submit import status
from runner.errors import ConfigError
from runner.sweep.task_slice import _read_slice

READERS = {
    "cluster/plan.json": lambda folder: Plan(folder),
    "events.jsonl": lambda folder: Tail(folder / "events.jsonl").new(),
    "slice.json": lambda folder: _read_slice(folder / "slice.json"),
    "summary.json": status,
}
NO_JSON = ("\x00\n", "3\n", "[[3]]\n", None)
TASK = '{"tasks": [{"number": "0", "jobs": [], "payload": "a", "ids": []}]}'
CASES = [
    *((name, text) for name in READERS for text in NO_JSON),
    *(("cluster/plan.json", text) for text in ("[]", "{}", '{"tasks": [{}]}', TASK)),
    *(("events.jsonl", text) for text in ("{}\n", '{"event": 3}\n')),
    *(("slice.json", text) for text in ("{", '[["0", [], "a", "b"]]', "[[0, [1]]]")),
]


@pytest.mark.parametrize("name, text", CASES)
def test_it_is_named(tmp_path, name, text):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if text is None else path.write_text(text)
    with pytest.raises(ConfigError, match=name):
        READERS[name](tmp_path)
