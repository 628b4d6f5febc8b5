"""What a model gives for each example of a split, as a table."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from runner.core import feed
from runner.core.pipeline import TrainState
from runner.core.program_spec import ProgramSpec
from runner.data.batches import eval_indices
from runner.data.dataset import Feature
from runner.data.transforms import transformed
from runner.errors import ConfigError
from runner.saved.model import Built, evaluated_as
from runner.tasks.task import mean
from runner.trees import by_path

_MOST = 4 << 30  # bytes of outputs, which are all held in memory


def predictions(
    built: Built, state: TrainState, split: str, outputs: bool = True
) -> pl.DataFrame:
    """A row for each example of `split`, in the order of the data.

    Args:
      outputs: whether to include the model's outputs themselves.

    Returns:
      `index`, the place of the example in the split; `output`, an array in each row
      unless it is one number, or `output/name` for each of several; `predicted`, the
      class with the largest output, if there are classes; the columns of the data that
      the model doesn't get; and `loss`, that of the example.

    Raises:
      ConfigError: there is no such split, or its outputs don't fit into memory.
    """
    spec, name = evaluated_as(built.run.spec, split)
    dataset, mesh = spec.dataset, spec.mesh
    compute = jax.jit(lambda *given: _rows(spec, outputs, *given))
    placed = jax.device_put(state, mesh.state(state))
    columns = feed.device_data(dataset, mesh).eval
    _, is_example = eval_indices(dataset, name)
    kept: list[dict[str, np.ndarray]] = []
    batches: Iterable[dict] = feed.eval_feed(dataset, mesh, 1)(name)
    for batch, real in zip(batches, is_example, strict=True):
        found = jax.device_get(compute(placed, columns, batch))
        kept.append({key: x[real] for key, x in found.items()})
        if len(kept) == 1:
            _check_size(kept[0], int(is_example.sum()))
    whole = {key: np.concatenate([rows[key] for rows in kept]) for key in kept[0]}
    index = pl.Series("index", np.arange(int(is_example.sum())))
    return pl.DataFrame([index, *map(_series, sorted(whole.items(), key=_place))])


def _place(column: tuple[str, Any]) -> int:
    """Where a column comes: outputs, class, the data's own, loss. JAX sorts by name."""
    name = column[0]
    if name.partition("/")[0] == "output":
        return 0
    return {"predicted": 1, "loss": 3}.get(name, 2)


def _rows(
    spec: ProgramSpec, outputs: bool, state: TrainState, columns: dict, sent: dict
) -> dict[str, Any]:
    """The columns of a table for one batch."""
    task, features = spec.task, spec.dataset.features
    batch = feed.batch(columns, {name: x[0] for name, x in sent.items()})
    batch.pop(feed.IS_EXAMPLE)
    batch = transformed(spec.dataset.transforms, batch, None)
    inputs = task.inputs(batch)
    found = spec.pipeline.predict(state, inputs)
    values, weights = task.loss(found, batch)
    weights = jnp.broadcast_to(jnp.asarray(weights, jnp.float32), values.shape)
    axes = tuple(range(1, values.ndim))
    loss = mean(jnp.sum(weights * values, axes), jnp.sum(weights, axes))
    is_input = {id(x) for x in jax.tree.leaves(inputs)}
    others = {name: x for name, x in batch.items() if id(x) not in is_input}
    given = {
        "/".join(filter(None, ("output", path))): x
        for path, x in by_path(found).items()
    }
    rows = given if outputs else {}
    for x in given.values():
        if any(_names_class(features[name], x.shape[1:]) for name in others):
            rows = rows | {"predicted": jnp.argmax(x, axis=-1).astype(jnp.int32)}
    taken = {"index", "loss", *given, "predicted"}
    columns = {f"data/{k}" if k in taken else k: x for k, x in others.items()}
    return rows | columns | {"loss": loss}


def _names_class(feature: Feature, shape: tuple[int, ...]) -> bool:
    """Whether an output of `shape` has a number for each class of a column."""
    return feature.classes is not None and shape == (*feature.shape, feature.classes)


def _check_size(rows: dict[str, np.ndarray], count: int) -> None:
    """Refuse a table that the memory can't hold, as logits of a large vocabulary."""
    size = sum(math.prod(x.shape[1:]) * x.itemsize for x in rows.values()) * count
    if size > _MOST:
        raise ConfigError(
            f"the table would have {size / 1e9:,.0f} GB, and at most "
            f"{_MOST / 1e9:,.0f} GB are held in memory: --no-outputs leaves out what "
            "the model gives, --split names a smaller split"
        )


def _series(item: tuple[str, np.ndarray]) -> pl.Series:
    name, values = item
    if values.dtype == jnp.bfloat16:
        values = values.astype(np.float32)
    if name.startswith("output") and values.shape[1:] == (1,):
        values = values[:, 0]
    return pl.Series(name, values)


def flat(table: pl.DataFrame) -> pl.DataFrame:
    """`table` for a file of text: of an array, a column for each number.

    Raises:
      ConfigError: a column has arrays of several dimensions.
    """
    columns: list[pl.Series] = []
    for column in table:
        if not isinstance(column.dtype, pl.Array):
            columns.append(column)
        elif len(column.dtype.shape) > 1:
            raise ConfigError(
                f"{column.name} is an array of {list(column.dtype.shape)} in each row, "
                "which a .csv can't hold: write a .parquet, or leave it out by "
                "--no-outputs"
            )
        else:
            names = [f"{column.name}_{i}" for i in range(column.dtype.size)]
            columns.extend(column.arr.to_struct(names).struct.unnest())
    return pl.DataFrame(columns)
