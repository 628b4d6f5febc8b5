"""Starts the process of a task: submitit's module, and signals are watched before."""

import os
import runpy
import sys
from pathlib import Path

from runner import signals


def command() -> str:
    """What submitit starts in place of Python, with Python's arguments after it."""
    import shlex

    return shlex.join([sys.executable, "-u", "-m", __name__])


def main() -> None:
    """Run `-u -m MODULE FOLDER`, where FOLDER is that of a plan's logs."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        os.setsid()  # Ctrl-C at the launcher's terminal isn't for this
    _, _, module, logs = sys.argv[1:]
    with signals.undisturbed():
        signals.watch()  # before the imports
        signals.last_word(main, lambda error: _stopped(Path(logs).parents[1]))
    sys.argv = [module, logs]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def rank() -> int:
    """The number of this process among those of its task."""
    return int(os.environ.get("SLURM_PROCID", "0"))


def _stopped(folder: Path) -> int | None:
    """Mark the folder, if it is a run's; the exit status if it must be another."""
    from runner.record.files import mark_preempted

    if rank():
        return 0  # any other would end the first process
    if not (folder / "sweep.json").exists():
        mark_preempted(folder)
    return None


if __name__ == "__main__":
    main()
