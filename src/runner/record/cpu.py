"""The CPU, on which machine code and the last bits of a result depend."""

import functools
import hashlib
import platform
from pathlib import Path


@functools.cache
def cpu() -> str:
    """Its model and a digest of its instructions, fixed for the process."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    kinds = ("model name", "flags", "Features")
    text = "".join(line for line in lines if line.startswith(kinds))
    names = [line.partition(":")[2] for line in lines if line.startswith(kinds[0])]
    name = names[0].strip() if names else platform.processor()
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name} {digest}".strip()
