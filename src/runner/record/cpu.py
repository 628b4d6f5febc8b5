"""The CPU, on which machine code and the last bits of a result depend."""

import functools
import hashlib
import platform
from pathlib import Path
from typing import NamedTuple


class Cpu(NamedTuple):
    """A kind of CPU: its model, and a digest of its model and instructions."""

    model: str
    digest: str


@functools.cache
def cpu() -> Cpu:
    """The kind of this machine's, fixed for the process."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    kinds = ("model name", "flags", "Features")
    text = "".join(line for line in lines if line.startswith(kinds))
    names = [line.partition(":")[2] for line in lines if line.startswith(kinds[0])]
    model = names[0].strip() if names else platform.processor()
    return Cpu(model, hashlib.sha256(text.encode()).hexdigest()[:8])
