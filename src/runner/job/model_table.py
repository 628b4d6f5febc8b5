"""`print=model`: what a model consists of, and what a step of it takes."""

import math
from typing import TextIO

from runner.core.groups import label_of
from runner.core.program import Program
from runner.core.run import Run
from runner.job.sharding import Placed, placed
from runner.record.console import console, print_table


def print_model(run: Run, compiled: Program, stream: TextIO | None = None) -> None:
    """Print the parameters of a run, its operations a step and its memory."""
    out, parts = console(stream), placed(run)
    groups = run.optimizer.groups
    frozen = {group.name for group in groups if group.frozen}
    labels = [label_of(groups, a.path, len(a.shape)) for a in parts["params"]]
    rows = [
        [array.path, str(list(array.shape)), array.dtype, f"{_count(array):,}"]
        + ([f"{label}{' (frozen)' * (label in frozen)}"] if groups else [])
        for array, label in zip(parts["params"], labels, strict=True)
    ]
    counts = [_count(array) for array in parts["params"]]
    header = ["parameter", "shape", "dtype", "count", *(["group"] if groups else [])]
    blank = [""] if groups else []
    total = ["all", f"{len(rows)} arrays", "", f"{sum(counts):,}", *blank]
    print_table(header, [*rows, [], total], out, right=slice(3, 4))
    if frozen:
        kept = sum(c for c, of in zip(counts, labels, strict=True) if of in frozen)
        out.print(f"{sum(counts) - kept:,} are trained, {kept:,} frozen")
    out.print(
        f"\nFLOPs a step: {compiled.flops:,.0f} in matrix products and convolutions, "
        "forward and backward, of a whole batch; counted in the step's jaxpr"
    )
    print_table(
        ["memory", "bytes a device"],
        [[name, f"{size:,}"] for name, size in _memory(parts, compiled)],
        out,
        title="state, and what a compiled step needs beside it",
        right=slice(1, None),
    )


def _count(array: Placed) -> int:
    return math.prod(array.shape)


def _memory(parts: dict[str, list[Placed]], compiled: Program) -> list[tuple[str, int]]:
    """The sizes of the parts of the state, and of a step's temporary arrays."""
    names = {"params": "parameters", "average": "their average"}
    found = [
        (names.get(name, name.replace("_", " ").replace("opt", "optimizer")), size)
        for name, arrays in parts.items()
        if (size := sum(array.device_bytes for array in arrays))
    ]
    step = compiled.calls(0).result()
    analysis = getattr(step, "memory_analysis", lambda: None)()
    if analysis is not None:
        text = "gradients, activations and the like: temporary arrays, by XLA"
        found.append((text, analysis.temp_size_in_bytes))
    return found
