"""`python -m runner`, and the console script `runner`."""

import atexit
import gc
import importlib
import os
import re
import sys

from runner import signals
from runner.record.output import outlive_readers

# What else there is than to train, by the first argument: `python -m runner compare X`
# is `python -m runner.compare X`.
COMMANDS = {
    "audit": "runner.audit.__main__",
    "compare": "runner.compare.__main__",
    "evaluate": "runner.evaluate.__main__",
    "export": "runner.export.__main__",
    "list": "runner.browse.list",
    "mirror": "runner.mirror.__main__",
    "parity": "runner.parity.__main__",
    "predict": "runner.predict.__main__",
    "replay": "runner.replay.__main__",
    "show": "runner.browse.show",
}


def main() -> None:
    """Train, or do what the first argument names."""
    # As the last thing: Python would search a million objects for garbage, for a third
    # of a second, before it ends.
    atexit.register(gc.freeze)
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    if first in COMMANDS:
        command = importlib.import_module(COMMANDS[first])
        sys.argv[:2] = [str(command.__file__)]  # as `python -m runner.compare` has it
        sys.exit(command.main())
    if re.fullmatch(r"[a-z]+", first):  # which no override of Hydra's is
        from runner.errors import did_you_mean

        sys.exit(
            f"error: {first} is neither a command ({', '.join(COMMANDS)}) nor an "
            f"override, such as optimizer=adam.{did_you_mean(first, COMMANDS)}"
        )
    signals.watch()  # before the imports, which take a second
    from runner.cli import main

    main([*COMMANDS])


def script() -> None:
    """The console script: it finds a user's modules as `python -m runner` does."""
    outlive_readers()
    sys.path[0] = os.getcwd()
    main()


if __name__ == "__main__":
    outlive_readers()
    main()
