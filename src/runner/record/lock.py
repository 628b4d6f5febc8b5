"""Files of which one process at a time is the owner."""

import fcntl
from typing import IO


def lock(file: IO) -> None:
    """Lock `file` until it is closed or this process dies.

    A file system without locks lets everybody in.

    Raises:
      BlockingIOError: another process has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass
