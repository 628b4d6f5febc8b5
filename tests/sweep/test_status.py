"""The line that a sweep shows while it runs."""

import io
import time

from runner.sweep.status import Status


def test_the_line(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with Status(4, 1, out) as status:
        assert status.line() == "sweep 1/4 done, preparing"
        for _ in range(20):  # jobs are built, which takes a while
            status.changed()
            now[0] += 10
        status.running = 2
        status.advance(0, 0.1)  # what was before is no pace
        assert status.line() == "sweep 1/4 done, 2 running"
        now[0] += 10
        status.advance(0, 0.1001)  # too little to tell a pace from
        assert status.line() == "sweep 1/4 done, 2 running"
        status.advance(0, 0.4)
        assert status.line() == "sweep 1/4 done, 2 running, 0:01:26 left"
        status.reached(0, 1.0)
        status.reached(1, 1.0)
        status.reached(2, 0.99)
        assert status.line() == "sweep 1/4 done, 2 running"  # soon over
        status.done, status.failed, status.running = 3, 1, 0
        status.say("job x failed")
    lines = out.getvalue().splitlines()
    assert lines[0] == "sweep 1/4 done, preparing"
    assert sum("preparing" in line for line in lines) == 1
    assert lines[-2] == "job x failed"
    assert lines[-1] == "sweep 3/4 done, 1 failed, 210.0 s"


def test_a_job_that_failed_before_any_has_trained_is_no_pace(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 30000.0)  # since the machine started
    with Status(4, 0, io.StringIO()) as status:
        status.failed = 1
        status.reached(0, 1.0)
        assert status.line() == "sweep 0/4 done, 1 failed"


def test_a_terminal_gets_one_line_that_is_redrawn():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    with Status(2, 0, out) as status:
        status.done = 1
        status.say("[not markup]")
    assert "[not markup]" in out.getvalue()
    assert "sweep 1/2 done" in out.getvalue()
