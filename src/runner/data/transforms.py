"""What a compiled step does to its batch first: functions from arrays to arrays.

A transform is made from its arguments in `data.transforms` and is called as
(batch, key, train) -> batch, on the whole batch `[B, ...]` of a step. `key` belongs to
the seed and the step, so a random transform gives the same numbers on any mesh and in
any population. In evaluation `train` is False and `key` None.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.errors import ConfigError, InPart, what_is

if TYPE_CHECKING:
    import jax

Batch = dict[str, Any]
Transform = Callable[[Batch, Any, bool], Batch]


def transformed(
    transforms: Sequence[Transform], batch: Batch, key: "jax.Array | None"
) -> Batch:
    """`batch` after all `transforms`, in turn.

    Args:
        transforms: Those of a data set.
        batch: Arrays `[B, ...]` by name.
        key: PRNG key of the step; None for evaluation.

    Raises:
        ConfigError: a transform returns no batch, or one of another size.
    """
    import jax

    for i, transform in enumerate(transforms):
        own = None if key is None else jax.random.fold_in(key, i)
        name = f"data.transforms[{i}]"
        if not callable(transform):
            raise ConfigError(
                f"{name}: its function returned {what_is(transform)}, and must return "
                "a function from (batch, key, train) to a batch"
            )
        with InPart(name):
            made = transform(batch, own, key is not None)
        _check_batch(name, made, {np.shape(x)[:1] for x in batch.values()})
        batch = made
    return batch


def _check_batch(name: str, batch: Any, sizes: set[tuple[int, ...]]) -> None:
    if not isinstance(batch, dict):
        raise ConfigError(
            f"{name}: it returned {what_is(batch)} instead of a batch, a dict of arrays"
        )
    shapes = {column: np.shape(x) for column, x in batch.items()}
    if len({shape[:1] for shape in shapes.values()}) > 1 or () in shapes.values():
        raise ConfigError(
            f"{name}: it returned a batch of {shapes}; the first dimension of each "
            "column is that of the examples, of which all have equally many"
        )
    if sizes != {shape[:1] for shape in shapes.values()}:
        raise ConfigError(
            f"{name}: it returned another number of examples than it was given; a "
            "batch must keep its size"
        )


def scale(*, column: str, subtract: float, divide: float) -> Transform:
    """float32 `(x - subtract) / divide`, so that bytes are moved, not floats."""
    if not divide > 0:
        raise ConfigError(f"data.transforms: scale.divide={divide} must be above 0")

    def transform(batch, key, train):
        import jax.numpy as jnp

        return batch | {column: (batch[column].astype(jnp.float32) - subtract) / divide}

    return transform


def normalize(*, column: str, mean: list[float], std: list[float]) -> Transform:
    """float32 `(x - mean) / std`, with one number for each channel, the last axis."""
    if len(mean) != len(std) or not all(s > 0 for s in std):
        raise ConfigError(
            f"data.transforms: normalize.mean={mean} and std={std} must have the same "
            "length, and std be above 0"
        )

    def transform(batch, key, train):
        import jax.numpy as jnp

        x = batch[column].astype(jnp.float32)
        if x.shape[-1] != len(mean):
            raise ConfigError(
                f"data.transforms: normalize.mean={mean} must have one number for each "
                f"of the {x.shape[-1]} channels of {column}"
            )
        shape = (1,) * (x.ndim - 1) + (-1,)
        subtract, divide = (jnp.float32(v).reshape(shape) for v in (mean, std))
        return batch | {column: (x - subtract) / divide}

    return transform


def cast(*, column: str, dtype: str) -> Transform:
    """The column in another dtype, such as float32 or int32."""
    import jax.numpy as jnp

    kind = jnp.dtype(dtype)  # refuses what is none

    def transform(batch, key, train):
        return batch | {column: batch[column].astype(kind)}

    return transform


def flip(*, column: str) -> Transform:
    """Mirror each image `[height, width, channels]` left to right, or not, by chance.

    Source: a standard augmentation, as in He et al., 2015.
    """

    def transform(batch, key, train):
        x = _images(batch, column, "flip")
        if not train:
            return batch
        import jax
        import jax.numpy as jnp

        height, width = x.shape[1:3]
        places = np.arange(height * width)[None]
        mirrored = places + (width - 1) - 2 * (places % width)
        heads = jax.random.bernoulli(key, shape=(len(x), 1))
        return batch | {column: _pixels(x, jnp.where(heads, mirrored, places))}

    return transform


def pad_and_crop(*, column: str, padding: int) -> Transform:
    """Shift each image by up to `padding` pixels in both directions, zeros moving in.

    Equal to padding with zeros and cropping at random (He et al., 2015).
    """
    if padding < 1:
        raise ConfigError(f"data.transforms: pad_and_crop.padding={padding} must be "
                          "at least 1")  # fmt: skip

    def transform(batch, key, train):
        x = _images(batch, column, "pad_and_crop")
        if not train:
            return batch
        import jax
        import jax.numpy as jnp

        height, width = x.shape[1:3]
        shifts = jax.random.randint(key, (len(x), 2), 0, 2 * padding + 1) - padding
        down, right = shifts[:, :1], shifts[:, 1:]
        rows, columns = np.arange(height)[None] + down, np.arange(width)[None] + right
        inside = ((rows >= 0) & (rows < height))[:, :, None, None]
        inside &= ((columns >= 0) & (columns < width))[:, None, :, None]
        places = np.arange(height * width)[None] + width * down + right
        shifted = _pixels(x, jnp.clip(places, 0, height * width - 1))
        return batch | {column: jnp.where(inside, shifted, x.dtype.type(0))}

    return transform


def _images(batch: Batch, column: str, transform: str) -> Any:
    x = batch[column]
    if x.ndim != 4:
        raise ConfigError(
            f"data.transforms: {transform} needs images [height, width, channels], and "
            f"{column} has examples of shape {x.shape[1:]}"
        )
    return x


def _pixels(x: "jax.Array", places: "jax.Array") -> "jax.Array":
    """The pixels at `places` `[B, height * width]` of each image, as images.

    On CPU one gather along pixels in a row is by far the cheapest way to move them.
    """
    import jax.numpy as jnp

    flat = x.reshape(len(x), -1, x.shape[-1])
    moved = jnp.take_along_axis(
        flat, places[:, :, None], axis=1, mode="promise_in_bounds"
    )
    return moved.reshape(x.shape)


def token_mask(*, column: str, mask: str, padding: int) -> Transform:
    """A column `mask`, float32: 0 where `column` is the token `padding`, else 1."""

    def transform(batch, key, train):
        import jax.numpy as jnp

        return batch | {mask: (batch[column] != padding).astype(jnp.float32)}

    return transform
