"""Processes that get signals, and what they leave."""

import json
import signal
import subprocess
import time
from pathlib import Path

# The exit statuses; 75 after any other.
ENDINGS = {signal.SIGTERM: 75, signal.SIGINT: 130}


def wait_until_handled(process: subprocess.Popen, number: int = signal.SIGTERM) -> None:
    """Wait until a process that was just started has a handler for a signal."""
    while True:
        text = Path(f"/proc/{process.pid}/status").read_text()
        handled = int(text.partition("SigCgt:")[2].split()[0], 16)
        if handled >> (number - 1) & 1:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def status(folder: Path) -> str | None:
    """The status in the summary of a run's folder."""
    path = folder / "summary.json"
    return json.loads(path.read_text())["status"] if path.exists() else None
