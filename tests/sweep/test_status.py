"""The line that a sweep shows while it runs."""

import io

from runner.sweep.status import Status


def test_the_line():
    out = io.StringIO()
    with Status(4, 1, out) as status:
        assert status.line() == "sweep 1/4 done, preparing"
        status.running = 2
        status.advance(0, 0.5)
        assert status.line().startswith("sweep 1/4 done, 2 running, 0:00:0")
        status.done, status.failed, status.running = 3, 1, 0
        status.say("job x failed")
    lines = out.getvalue().splitlines()
    assert lines[-2] == "job x failed"
    assert lines[-1].startswith("sweep 3/4 done, 1 failed, ")
    assert lines[-1].endswith(" s")


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
