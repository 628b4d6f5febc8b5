"""The command lines of runner's commands."""

import argparse
import re
import textwrap
from typing import Any, NoReturn

from runner.errors import did_you_mean

_OPTION = re.compile(r"(?<!\S)--?[\w-]+")


class Parser(argparse.ArgumentParser):
    """Keeps the lines of its epilog, and names what is near to an unknown option."""

    def __init__(self, description: str, **given: Any):
        super().__init__(
            description=textwrap.fill(description, 79),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **given,
        )

    def error(self, message: str) -> NoReturn:
        super().error(with_nearest(message, self))


def with_nearest(message: str, parser: argparse.ArgumentParser) -> str:
    """`message`, and the options of `parser` that are near to unknown ones in it."""
    known = parser._option_string_actions
    unknown = (name for name in _OPTION.findall(message) if name not in known)
    near = "".join(did_you_mean(name, known) for name in unknown)
    return f"{message}.{near}" if near else message
