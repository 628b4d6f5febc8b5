"""`print=sharding`: how the state is split, and what crosses devices in a step.

The collectives, which cross devices, are read from the HLO text of the program.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

import jax

from runner.core.placement import unknown
from runner.core.program import Program
from runner.core.run import Run
from runner.core.shapes import start_shapes
from runner.errors import ConfigError
from runner.record.console import console, print_table
from runner.trees import path_text

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_COMPUTATION = re.compile(r"^(ENTRY )?%([^ ]+) \(.*\{$")
# An asynchronous collective is counted where it starts.
_INSTRUCTION = re.compile(
    rf"^\s*(?:ROOT )?%[^ ]+ = (?P<shape>.*?) (?P<kind>{'|'.join(KINDS)})"
    r"(?P<start>-start)?\("
)
_LOOP = re.compile(r" while\(.*body=%([\w.-]+)")
_BRANCHES = re.compile(
    r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%[\w.-]+))"
)
_CALLED = re.compile(r"(?:calls|to_apply)=%([\w.-]+)")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")  # a dynamic size is <=8
_COMMENT = re.compile(r"/\*.*?\*/")


class Placed(NamedTuple):
    """An array of the state, its size in bytes, and the size of a device's part."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    spec: str
    bytes: int
    device_bytes: int


class Collective(NamedTuple):
    """One instruction that a group of devices executes together.

    Attributes:
      kind: one of KINDS.
      bytes: the size of what one group reduces, gathers or sends, as a whole.
      group: the number of devices in a group.
      loops: how many loops it is nested in.
      conditional: whether it is in a branch, which isn't always taken.
    """

    kind: str
    bytes: int
    group: int
    loops: int
    conditional: bool

    @property
    def wire_bytes(self) -> float:
        """The least that each device sends, with a ring algorithm."""
        if self.kind in ("collective-permute", "collective-broadcast"):
            return self.bytes
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * self.bytes * (self.group - 1) / self.group


class Crossing(NamedTuple):
    """The collectives of one kind that happen equally often."""

    kind: str
    when: str
    number: int
    bytes: int
    wire_bytes: float


def placed(run: Run) -> dict[str, list[Placed]]:
    """The arrays of each part of `run`'s state, by the part's name."""
    carry = start_shapes(run.spec, run.values).carry
    parts = carry.state._asdict() | {"average": carry.average}
    return {
        name: [_placed(*leaf) for leaf in jax.tree.leaves_with_path(tree)]
        for name, tree in parts.items()
    }


def _placed(path: Any, array: jax.ShapeDtypeStruct) -> Placed:
    assert isinstance(array.sharding, jax.sharding.NamedSharding)
    part = array.sharding.shard_shape(array.shape)
    axes = [
        "x".join(axis) if isinstance(axis, tuple) else axis or "-"
        for axis in array.sharding.spec
    ]
    return Placed(
        path_text(path),
        array.shape,
        str(array.dtype),
        f"split over {','.join(axes)}" if axes else "replicated",
        math.prod(array.shape) * array.dtype.itemsize,
        math.prod(part) * array.dtype.itemsize,
    )


def crossings(compiled: Program) -> list[Crossing]:
    """What crosses devices in one step that is logged.

    Raises:
      ConfigError: the step isn't compiled as a whole.
    """
    step = compiled.calls(0).result()
    if not hasattr(step, "as_text"):
        raise ConfigError(
            "print=sharding needs the compiled program, and train.debug_nans=true "
            "makes none"
        )
    text = step.as_text()  # pyright: ignore[reportFunctionMemberAccess]
    groups: dict[tuple[str, str], list[Collective]] = {}
    for one in collectives(text, compiled.mesh.devices):
        key = one.kind, _when(one, compiled.looped)
        groups.setdefault(key, []).append(one)
    return [
        Crossing(
            *key,
            len(alike),
            sum(c.bytes for c in alike),
            sum(c.wire_bytes for c in alike),
        )
        for key, alike in groups.items()
    ]


def _when(one: Collective, looped: bool) -> str:
    inner = one.loops > looped
    when = "each iteration of a loop in a step" if inner else "each step"
    return f"{when}, if its branch is taken" if one.conditional else when


def print_sharding(run: Run, compiled: Program, stream: TextIO | None = None) -> None:
    """Print both tables for a run and its program, to stdout by default."""
    crossed, parts = crossings(compiled), placed(run)
    out = console(stream)
    shape = compiled.mesh.own.mesh.shape
    axes = " x ".join(f"{name} {size}" for name, size in shape.items())
    kind = jax.devices()[0].device_kind
    out.print(f"mesh: {axes}, {compiled.mesh.devices} x {kind}")
    rows = [
        [a.path, str(a.shape), a.dtype, a.spec, *_with_commas(a.bytes, a.device_bytes)]
        for a in parts["params"]
    ]
    parts["all"] = [array for arrays in parts.values() for array in arrays]
    totals = [_total(name, arrays) for name, arrays in parts.items() if arrays]
    print_table(
        ["parameter", "shape", "dtype", "sharding", "bytes", "bytes a device"],
        [*rows, [], *totals],
        out,
        title="state",
        right=slice(4, None),
    )
    if names := unknown(run.spec.pipeline.partitioning()):
        out.print(
            f"the model's own partitioning also names {', '.join(names)}: no mesh has "
            "such axes, so they split nothing"
        )
    print_table(
        ["collective", "when", "count", "bytes", "on the wire"],
        [[kind, when, *_with_commas(*numbers)] for kind, when, *numbers in crossed],
        out,
        title="what crosses devices",
        right=slice(2, None),
    )
    note = "bytes: of the whole arrays; on the wire: what each device sends at least"
    out.print(note if crossed else "\nnothing crosses devices")


def _total(name: str, arrays: list[Placed]) -> list[str]:
    whole = sum(array.bytes for array in arrays)
    part = sum(array.device_bytes for array in arrays)
    counts = Counter(array.spec.partition(" ")[0] for array in arrays)
    return [
        name.replace("params", "parameters").replace("_", " "),
        f"{len(arrays)} arrays",
        "",
        ", ".join(f"{count} {spec}" for spec, count in counts.items()),
        f"{whole:,}",
        f"{part:,} ({part / max(whole, 1):.1%})",
    ]


def _with_commas(*numbers: float) -> list[str]:
    return [f"{number:,.0f}" for number in numbers]


def collectives(hlo: str, devices: int) -> list[Collective]:
    """List the collectives of a compiled module, in the order of its execution.

    Each is listed once, however often its loop iterates. Those whose groups are single
    devices move nothing and are left out.

    Args:
      hlo: the text from `jax.stages.Compiled.as_text`.
      devices: how many devices the module runs on.

    Raises:
      ValueError: `hlo` isn't such text, or has an unknown form.
    """
    computations: dict[str, list[str]] = {}
    entry, lines = None, []
    for line in _COMMENT.sub("", hlo).splitlines():
        if head := _COMPUTATION.match(line):
            lines = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        else:
            lines.append(line)
    if entry is None:
        raise ValueError("this is not an HLO module: it has no ENTRY computation")
    found = _reached(entry, computations, devices, 0, False)
    return [collective for collective in found if collective.group > 1]


def _reached(
    name: str, computations: dict, devices: int, loops: int, conditional: bool
) -> Iterator[Collective]:
    """The collectives of a computation and of those that it calls."""
    for line in computations.get(name, ()):
        if at := _INSTRUCTION.match(line):
            group = _group(line, at["kind"], devices)
            size = _bytes(at["shape"], at["kind"], bool(at["start"]))
            if at["kind"] == "reduce-scatter":
                size *= group  # its result is one device's part
            yield Collective(at["kind"], size, group, loops, conditional)
            continue
        called = [(loops + 1, conditional, m[1]) for m in _LOOP.finditer(line)]
        for match in _BRANCHES.finditer(line):
            names = re.findall(r"%([\w.-]+)", match[1] or match[2])
            called += [(loops, True, branch) for branch in names]
        called += [(loops, conditional, m[1]) for m in _CALLED.finditer(line)]
        for depth, branch, inner in called:
            yield from _reached(inner, computations, devices, depth, branch)


def _bytes(shape: str, kind: str, is_start: bool) -> int:
    """The bytes of the result. An asynchronous start lists its operands first."""
    if is_start and kind != "all-reduce":
        shape = _items(shape)[1]
    bits = [
        math.prod(int(n) for n in re.findall(r"\d+", dimensions)) * _bits(dtype)
        for dtype, dimensions in _ARRAY.findall(shape)
    ]
    return -(-sum(bits) // 8)


def _items(shape: str) -> list[str]:
    """The items of a tuple's shape, each of which may itself be a tuple."""
    items, depth = [""], 0
    for character in shape[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            items.append("")
        else:
            items[-1] += character
    return items


def _bits(dtype: str) -> int:
    if dtype == "pred":
        return 8
    bits = re.match(r"(?:bf|[a-z])(\d+)", dtype)  # such as f32, bf16, f8e4m3fn
    if bits is None:
        raise ValueError(f"unknown type {dtype} in HLO")
    return int(bits[1])


def _group(line: str, kind: str, devices: int) -> int:
    """The number of devices in each of an instruction's groups."""
    if kind == "collective-permute":
        return 2 if "source_target_pairs={{" in line else 1
    _, _, groups = line.partition("replica_groups=")
    if listed := re.match(r"\{\{([\d,]*)\}", groups):
        return len(listed[1].split(","))
    if counted := re.match(r"\[\d+,(\d+)\]<=", groups):
        return int(counted[1])
    if named := re.match(r"mesh\[(.*?)\].*?\{('.*?)\}", groups):
        sizes = {axis: int(n) for axis, n in re.findall(r"'([^']+)'=(\d+)", named[1])}
        used = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part) if part else sizes[axis] for axis, part in used)
    if groups.startswith("{}") or not groups:
        return devices
    raise ValueError(f"unknown replica_groups in HLO: {groups[:80]}")
