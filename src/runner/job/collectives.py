"""Communication between devices in a compiled program, read from its HLO text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

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


class Collective(NamedTuple):
    """One instruction that devices carry out together.

    Attributes:
      kind: one of KINDS.
      bytes: the total size of what is reduced, gathered or sent within one group.
      group: how many devices exchange it among themselves.
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
