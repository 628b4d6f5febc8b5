"""When the populations of a group train, and which members they have."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from runner.sweep import group
from runner.sweep.group import PopulationQueue


@pytest.fixture
def trained(monkeypatch):
    """The names in each population, in the order in which they trained."""
    found = []
    monkeypatch.setattr(
        group, "train_together", lambda names, *_: found.append("".join(names))
    )
    return found


def member(name):
    run = SimpleNamespace(spec=None, values=None, timetable=(9, 9, 9))
    recorder = SimpleNamespace(provenance={}, kept=None)
    return SimpleNamespace(
        run=run,
        job=SimpleNamespace(fingerprint=name),
        prepared=SimpleNamespace(recorder=recorder),
    )


def test_a_population_trains_before_the_next_members_are_built(trained, tmp_path):
    compiling: Future[int] = Future()
    session: Any = SimpleNamespace(program=lambda *_: None)
    waiting = PopulationQueue("auto", session, None, tmp_path, compiling)
    for name in "abc":
        waiting.add(member(name))
    assert trained == []  # their program isn't compiled yet
    compiling.set_result(2)
    waiting.add(member("d"))
    assert trained == ["ab", "cd"]
    waiting.add(member("e"))
    waiting.finish()
    assert trained == ["ab", "cd", "e"]
