"""`print=sharding`: what lies where, and what crosses devices in a step."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

import jax

from runner.core.program import Program, start_shapes
from runner.core.run import Run
from runner.errors import ConfigError
from runner.job.collectives import Collective, collectives


class Placed(NamedTuple):
    """An array and its part on each device, in bytes."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    spec: str
    bytes: int
    device_bytes: int


class Crossing(NamedTuple):
    """The collectives of one kind that cross devices at the same occasions."""

    kind: str
    when: str
    number: int
    bytes: int
    wire_bytes: float


def placed(run: Run) -> dict[str, list[Placed]]:
    """The arrays of each part of `run`'s state, by the part's name."""
    carry = start_shapes(run.spec, run.values).carry
    parts = carry.state._asdict() | {"average": carry.average}
    return {name: list(map(_placed, *_leaves(tree))) for name, tree in parts.items()}


def _leaves(tree: Any) -> tuple[list, list]:
    leaves = jax.tree.leaves_with_path(tree)
    return [path for path, _ in leaves], [leaf for _, leaf in leaves]


def _placed(path: Any, array: jax.ShapeDtypeStruct) -> Placed:
    assert isinstance(array.sharding, jax.sharding.NamedSharding)
    part = array.sharding.shard_shape(array.shape)
    axes = [str(axis) if axis else "-" for axis in array.sharding.spec]
    return Placed(
        jax.tree_util.keystr(path, simple=True, separator="/"),
        array.shape,
        str(array.dtype),
        f"split over {','.join(axes)}" if axes else "replicated",
        math.prod(array.shape) * array.dtype.itemsize,
        math.prod(part) * array.dtype.itemsize,
    )


def crossings(compiled: Program) -> list[Crossing]:
    """What one call of `train` makes cross devices, the loop over its steps once.

    Raises:
      ConfigError: the program isn't compiled as a whole.
    """
    if not hasattr(compiled.train, "as_text"):
        raise ConfigError(
            "print=sharding reads the compiled program, but with train.debug_nans=true "
            "there is none"
        )
    text = compiled.train.as_text()  # pyright: ignore[reportFunctionMemberAccess]
    groups: dict[tuple[str, str], list[Collective]] = {}
    for one in collectives(text, compiled.mesh.devices):
        key = one.kind, _when(one, looped=compiled.capacity > 1)
        groups.setdefault(key, []).append(one)
    return [
        Crossing(
            *key, len(ones), int(sum(c.bytes for c in ones)),
            sum(c.wire_bytes for c in ones),
        )
        for key, ones in groups.items()
    ]  # fmt: skip


def _when(one: Collective, looped: bool) -> str:
    depth = one.loops - looped
    if depth < 0:
        return "each call"
    when = "each step" if depth == 0 else "each turn of a loop in a step"
    return f"{when}, if its branch is taken" if one.conditional else when


def print_sharding(run: Run, compiled: Program, stream: TextIO | None = None) -> None:
    """Print all of the above for a run and its program; to stdout by default."""
    from rich.console import Console

    crossed = crossings(compiled)
    parts = placed(run)
    console = Console(file=stream)
    if not console.is_terminal:  # a pipe has no width; rows are not for folding
        console.width = 160
    shape = compiled.mesh.own.mesh.shape
    axes = " x ".join(f"{name} {size}" for name, size in shape.items())
    kind = jax.devices()[0].device_kind
    console.print(f"mesh: {axes}, {compiled.mesh.devices} x {kind}")
    console.print(_state_table(parts))
    if not crossed:
        console.print("nothing crosses devices")
        return
    console.print(_crossing_table(crossed))
    console.print(
        "bytes: of the whole arrays. on the wire: what each device sends at least, as "
        "a ring does it"
    )


def _state_table(parts: dict[str, list[Placed]]) -> Any:
    from rich.table import Table

    table = Table("", "shape", "dtype", "sharding", "bytes", "bytes a device")
    for column in table.columns[4:]:
        column.justify = "right"
    for array in parts["params"]:
        table.add_row(
            array.path, str(array.shape), array.dtype, array.spec, f"{array.bytes:,}",
            f"{array.device_bytes:,}",
        )  # fmt: skip
    table.add_section()
    everything: list[Placed] = []
    for name, arrays in parts.items():
        if arrays:
            everything += arrays
            table.add_row(*_total(name.replace("_", " "), arrays))
    table.add_section()
    table.add_row(*_total("all", everything))
    return table


def _total(name: str, arrays: list[Placed]) -> Iterator[str]:
    whole = sum(array.bytes for array in arrays)
    part = sum(array.device_bytes for array in arrays)
    specs = Counter(array.spec.partition(" ")[0] for array in arrays)
    yield from (name.replace("params", "parameters"), f"{len(arrays)} arrays", "")
    yield ", ".join(f"{count} {spec}" for spec, count in specs.items())
    yield from (f"{whole:,}", f"{part:,} ({part / max(whole, 1):.1%})")


def _crossing_table(crossed: list[Crossing]) -> Any:
    from rich.table import Table

    table = Table("crosses devices", "when", "count", "bytes", "on the wire")
    for column in table.columns[2:]:
        column.justify = "right"
    for kind, when, *numbers in crossed:
        table.add_row(kind, when, *(f"{number:,.0f}" for number in numbers))
    return table
