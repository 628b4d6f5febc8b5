import fcntl
import io
import itertools
import os
import pty
import re
import struct
import termios
import threading
import time

import pytest

from runner.record.terminal import Progress, print_summary, short

ROW = {"train/loss": 0.53124, "train/learning_rate": 1e-3, "time/steps_per_second": 812}
SUMMARY = {
    "status": "finished",
    "steps": 440,
    "final": {"train/loss": 0.25, "validation/accuracy": 0.9611},
    "best": {"validation/accuracy": {"value": 0.97, "step": 400}},
    "wall_seconds": 3.21,
    "compile_seconds": None,
}


class Terminal:
    """A real one, `columns` wide; `text` is what it was sent."""

    def __init__(self, columns: int):
        self._main, side = pty.openpty()
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(side, termios.TIOCSWINSZ, size)
        self.stream = os.fdopen(side, "w", buffering=1)
        self.text = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        try:
            while data := os.read(self._main, 65536):
                self.text += data.decode(errors="replace")
        except OSError:  # Linux tells the closed other side so
            pass

    def close(self) -> str:
        self.stream.close()
        self._reader.join()
        os.close(self._main)
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.text)


@pytest.fixture
def term(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_progress_is_one_line_on_a_terminal(term, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))  # rich asks only the standard streams
    terminal = Terminal(columns)
    progress = Progress(440, terminal.stream)
    for step in range(1, 441):
        progress.row({"step": step, **ROW})
        if step % 100 == 0:
            progress.row({"step": step, "validation/accuracy": 0.9611})
            time.sleep(0.12)
    progress.close()
    progress.close()
    text = terminal.close()
    *_, last = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert "440/440" in last and "100%" in last and "  loss 0.5312" in last
    assert all(len(line) <= columns for line in re.split(r"[\r\n]+", text))
    assert text.count("\n") == 1  # drawn over and over in its place
    assert text.count("/440") <= 10
    if columns == 80:
        assert "lr 1e-3" in last and " steps/s" in last
    if columns == 200:
        assert "lr 1e-3" in last and " steps/s" in last
        assert "validation/accuracy 0.9611" in last and " left" not in last


@pytest.fixture
def clock(monkeypatch):
    """What time it is, in seconds; a test sets it."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def plain_lines(clock, total, seconds, evaluated=()):
    """The lines of a run whose steps take `seconds` each, after 50 to start it."""
    stream = io.StringIO()
    progress = Progress(total, stream)
    clock[0] += 50
    for step in range(1, total + 1):
        clock[0] += seconds
        numbers = {"validation/loss": 0.5} if step in evaluated else {}
        progress.row({"step": step, **ROW, **numbers})
    progress.close()
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    "total, seconds, least, most",
    [
        (440, 0.001, 2, 2),  # the first and the last
        (20_000, 0.009, 15, 30),  # three minutes
        (90, 2.0, 15, 30),
        (100_000, 0.864, 50, 100),  # a day
        (1, 1.0, 1, 1),
    ],
)
def test_plain_lines_are_few_and_ever_rarer(clock, total, seconds, least, most):
    lines = plain_lines(clock, total, seconds, evaluated=range(1, total + 1))
    steps = [int(re.match(r"step (\d+)/", line)[1]) for line in lines]
    assert steps[0] == 1 and steps[-1] == total
    assert least <= len(lines) <= most
    gaps = [seconds * (b - a) for a, b in itertools.pairwise(steps[:-1])]
    assert all(gap >= 2.99 for gap in gaps)
    assert gaps == sorted(gaps) or max(gaps[:3], default=0) < max(gaps)


def test_a_slow_step_has_a_speed_and_a_start_none(clock):
    lines = plain_lines(clock, 90, 2.0)
    assert lines[0].endswith("learning_rate 1e-3  812 steps/s")  # as the row says
    assert lines[1] == (
        "step 4/90  train/loss 0.5312  learning_rate 1e-3  0.5 steps/s  0:02:52 left"
    )
    assert lines[-1].endswith("  0.5 steps/s")  # and no time is left


def test_an_evaluation_is_said_once_with_its_step(clock):
    lines = plain_lines(clock, 20, 2.0, evaluated=[4, 5, 7])
    assert [line.split()[1] for line in lines[:3]] == ["1/20", "4/20", "7/20"]
    assert [line for line in lines if "validation" in line] == [
        f"step {step}/20  train/loss 0.5312  learning_rate 1e-3  0.5 steps/s  "
        f"0:00:{left} left  validation/loss 0.5"
        for step, left in ((4, 32), (7, 26))
    ]
    lines = plain_lines(clock, 20, 2.0, evaluated=[5])
    assert lines[2].endswith("validation/loss 0.5 (at step 5)")


def test_a_run_that_ends_early_says_its_last_row(clock):
    stream = io.StringIO()
    progress = Progress(100, stream)
    for step in (1, 2, 3):
        progress.row({"step": step, **ROW})
    progress.close()
    progress.close()
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == [
        "1/100",
        "3/100",
    ]


def test_a_dumb_terminal_gets_plain_lines_and_no_codes(term, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal(80)
    progress = Progress(440, terminal.stream)
    for step in range(1, 441):
        progress.row({"step": step, **ROW})
    progress.close()
    print_summary(SUMMARY, {"run folder": "outputs/1"}, terminal.stream)
    terminal.close()
    assert "\x1b" not in terminal.text
    assert terminal.text.count("/440") == 2


def test_no_color_is_respected(term, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal(120)
    progress = Progress(440, terminal.stream)
    progress.row({"step": 1, **ROW})
    progress.close()
    print_summary(SUMMARY, {"run folder": "outputs/1"}, terminal.stream)
    terminal.close()
    codes = re.findall(r"\x1b\[([0-9;]*)m", terminal.text)
    colours = {c for code in codes for c in code.split(";") if c[:1] in ("3", "4", "9")}
    assert colours <= {"3"}, colours  # which is italic


@pytest.mark.parametrize(
    "value, text",
    [
        (0.001, "1e-3"), (2.5e-4, "2.5e-4"), (0.01, "0.01"), (0.1 + 0.2, "0.3"),
        (0.0011744, "0.001174"), (0.60874, "0.6087"), (1.0, "1"), (0.0, "0"),
        (12345.6, "12346"), (1e6, "1e6"), (3.935e-07, "3.935e-7"), (-0.5, "-0.5"),
        (99.996, "100"), (float("nan"), "nan"), (float("inf"), "inf"), (12, "12"),
    ],
)  # fmt: skip
def test_digits_are_sensible(value, text):
    assert short(value) == text


def test_summary_as_plain_text():
    stream = io.StringIO()
    print_summary(SUMMARY, {"run folder": "outputs/[a]"}, stream)
    assert [line.rstrip() for line in stream.getvalue().splitlines()] == [
        "metric                final  best  at step",
        "train/loss             0.25",
        "validation/accuracy  0.9611  0.97      400",
        "",
        "status        finished, 440 steps",
        "wall time     3.2 s",
        "run folder    outputs/[a]",
    ]


def test_summary_on_a_terminal(term):
    terminal = Terminal(60)
    place = "outputs/[a]/" + "x" * 80
    print_summary(SUMMARY, {"run folder": place}, terminal.stream)
    text = terminal.close()
    assert re.search(r"validation/accuracy\W+0\.9611\W+0\.97\W+400", text)
    assert place in text  # neither folded nor taken for markup
