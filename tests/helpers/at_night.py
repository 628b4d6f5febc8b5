"""Tables of which a part is tested always, and the rest at night."""

from collections.abc import Sequence
from typing import Any

import pytest


def one_in(number: int, cases: Sequence[Any]) -> list[Any]:
    """Cases for pytest, of which one in `number` is tested always."""
    return [
        pytest.param(case, marks=pytest.mark.nightly) if i % number else case
        for i, case in enumerate(cases)
    ]


def each_in_one(cases: Sequence[Any], ways: Sequence[str]) -> list[Any]:
    """Pairs for pytest, of which each case in one of the ways is tested always."""
    return [
        pytest.param(case, way, marks=[] if i % len(ways) == j else pytest.mark.nightly)
        for i, case in enumerate(cases)
        for j, way in enumerate(ways)
    ]
