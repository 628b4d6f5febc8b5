"""What the process prints, after whoever read it has gone.

A pipe may be closed, as by `head`, and a terminal may be gone, where `nohup` keeps its
signal away. What runs then still has a folder to write, and ends as it would have.
"""

import io
import os
import stat
import sys
from typing import Any


class _Output(io.FileIO):
    """One of the process' streams, which can always be written.

    Args:
      number: its descriptor.
      may_be_lost: even if it is a file, on a disk that may be full.
    """

    def __init__(self, number: int, may_be_lost: bool):
        super().__init__(number, "w", closefd=False)
        is_file = stat.S_ISREG(os.fstat(number).st_mode)
        self._may_be_lost = may_be_lost or not is_file

    def write(self, data: Any, /) -> Any:
        try:
            return super().write(data)
        except OSError:
            if not self._may_be_lost:
                raise
        return memoryview(data).nbytes


def outlive_readers() -> None:
    """Let this process print to nobody, instead of ending with an error.

    For a command's first moment: objects that have its streams by then keep the old.
    What else Python was given to print to, as in a test or a notebook, stays.
    """
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:  # closed by whoever started the process
            setattr(sys, name, open(os.devnull, "w"))
        elif stream is getattr(sys, f"__{name}__"):
            stream.flush()
            raw = _Output(stream.fileno(), may_be_lost=name == "stderr")
            raw.name = stream.name
            unbuffered: Any = raw  # as `python -u` has it
            wrapped = io.TextIOWrapper(
                unbuffered if stream.write_through else io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, wrapped)
