import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading
import time

import pytest

from runner.record.terminal import Progress, print_summary

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


@pytest.mark.parametrize("columns", [60, 120, 200])
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
    if columns == 200:
        assert "learning_rate 1.00e-03" in last and "812 steps/s" in last
        assert "validation/accuracy 0.9611" in last and "0:00:00 left" in last


@pytest.mark.parametrize("total, every", [(440, 1), (440, 100), (7, 1), (100_000, 10)])
def test_plain_lines_are_few(total, every):
    stream = io.StringIO()
    progress = Progress(total, stream)
    for step in range(every, total + 1, every):
        progress.row({"step": step, **ROW})
    progress.row({"step": total, "validation/mine": 0.5, "validation/each/0": 0.25})
    progress.close()
    lines = stream.getvalue().splitlines()
    assert min(total // every, 10) <= len(lines) <= 24
    assert lines[0] == (
        f"step {every}/{total}  train/loss 0.5312  learning_rate 1.00e-03  812 steps/s"
    )
    assert lines[-1] == f"step {total}/{total}  validation/mine 0.5"


def test_every_evaluation_gets_a_plain_line():
    stream = io.StringIO()
    progress = Progress(100_000, stream)
    for step in range(1, 51):
        progress.row({"step": step, "validation/loss": 0.5})
    assert len(stream.getvalue().splitlines()) == 50


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
