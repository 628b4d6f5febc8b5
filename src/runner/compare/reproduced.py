"""Whether runs agree in what they have in common: repeats, and the first step."""

import math
from collections.abc import Iterator

import polars as pl
import polars.selectors as cs

from runner.compare.columns import BATCH, DEVICES, INITIAL, is_fact, varying
from runner.compare.statistics import AGREEMENT
from runner.errors import few
from runner.settings import FACT

# Of a product's inputs: TensorFloat-32 has 10 bits of mantissa, bfloat16 7.
_TF32, _BFLOAT16 = 2**-9, 2**-6
LOSS, NORM = "train/loss", "train/grad_norm"


def once(
    rows: pl.DataFrame, table: pl.DataFrame, higher_is_better: bool
) -> tuple[pl.DataFrame, list[str]]:
    """`rows` with each configuration and seed once, and where repeats don't agree.

    Of repeats that don't, the worst counts: they are never averaged.

    Args:
      rows: one for each run: `run`, `group`, `cell`, `setting`, `seed`, `value` (not
        finite if it failed).
      table: `Runs.table`, to say in which facts such repeats differ.
    """
    key = ["group", "cell", "setting", "seed"]
    found = []
    repeated = rows.filter(pl.len().over(key) > 1)
    for repeats in repeated.partition_by(key, maintain_order=True):
        repeats = repeats.sort("value")
        (low, high), runs = repeats["value"][[0, -1]], repeats["run"]
        if low == high or high - low <= AGREEMENT * max(abs(low), abs(high)) < math.inf:
            continue
        those = table.filter(pl.col("run").is_in(runs.implode()))
        facts = [k.removeprefix(FACT) for k in varying(those) if is_fact(k)]
        why = f" (they differ in {few(facts, 4)})" if facts else ""
        failed = "nothing (it failed)"
        ends = [f"{v:.4g}" if math.isfinite(v) else failed for v in (low, high)]
        found.append(
            f"{runs[0]} and {runs[-1]}, with the same configuration and seed, end at "
            f"{' and '.join(ends)}{why}"
        )
    worst_first = rows.sort("value", descending=not higher_is_better)
    kept = worst_first.unique(key, keep="first").select("run")
    return rows.join(kept, on="run", how="semi", maintain_order="left"), found


def first_steps(table: pl.DataFrame, curves: pl.DataFrame, by: str) -> Iterator[str]:
    """Where runs don't agree in step 1 that share initial values, batches and task.

    An optimizer acts only after it. Within a framework, gradients must agree too.
    """
    if not {INITIAL, BATCH} <= {*table.columns} or LOSS not in curves:
        return
    names = cs.by_name("run", LOSS, NORM, require_all=False)
    start = curves.filter(pl.col("step") == 1).select(names)
    runs = table.join(start, on="run", maintain_order="left")
    runs = runs.drop_nulls([INITIAL, BATCH])
    shared = [INITIAL, BATCH, "seed", *_same_function(table, by)]
    key = [c for c in dict.fromkeys(shared) if c in table]
    of_model = table.select(cs.numeric() & cs.matches(r"^model\..*drop"))
    drops = any((values != 0).any() for values in of_model)
    framework = ["framework"]
    yield from _apart(runs, key + (framework if drops else []), LOSS, "the loss")
    if NORM in curves:
        yield from _apart(runs, key + framework, NORM, "the gradient's norm")


def _same_function(table: pl.DataFrame, by: str) -> list[str]:
    """The settings besides the optimizer that a loss depends on.

    Names of functions don't count, unless they are asked about: what is ported, or
    edited, has to compute the same.
    """
    sections = ("task.", "model.", "precision.", "train.gradient_accumulation")
    found = [c for c in table.columns if c.startswith(sections)]
    asked = by.partition(".")[0]
    return [c for c in found if not c.endswith("_target_") or c.startswith(asked)]


def _apart(runs: pl.DataFrame, key: list[str], column: str, what: str) -> Iterator[str]:
    tolerance = AGREEMENT
    if DEVICES in runs and not runs[DEVICES].str.contains("cpu", literal=True).all():
        tolerance = _TF32
    if "precision.compute" in runs and (runs["precision.compute"] == "bfloat16").any():
        tolerance = _BFLOAT16
    value = pl.col(column)
    run = pl.col("run")
    groups = runs.filter(value.is_finite()).group_by(key, maintain_order=True).agg(
        low=value.min(), first=run.get(value.arg_min()),
        high=value.max(), last=run.get(value.arg_max()),
    )  # fmt: skip
    size = pl.max_horizontal(pl.col("low", "high").abs())
    bad = groups.filter(pl.col("high") - pl.col("low") > tolerance * size)
    for row in bad.head(3).iter_rows(named=True):
        yield (
            f"{row['first']} and {row['last']} share initial values, batches and task, "
            f"but {what} of step 1 is {row['low']:.6g} in one and {row['high']:.6g} in "
            "the other: they compute something else"
        )
