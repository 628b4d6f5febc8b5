"""The callbacks that come with the runner: conf/callback names them."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from runner.errors import ConfigError, did_you_mean

_GAP = 2  # pixels between images
_CELL = 16  # pixels of a cell, at most
_SIDE = 1024  # pixels of a confusion matrix, unless it has more classes


def confusion_matrix(
    predictions: Callable, *, labels: str, examples: int | None
) -> dict[str, Any]:
    """How many examples of each class were taken for which: a row for each true one.

    Args:
      predictions: see docs/hooks.md.
      labels: the column with the true class.
      examples: how many of the validation split; None: all.
    """
    batch, logits = predictions(examples)
    truth = _column(batch, "labels", labels)
    classes = _classes("labels", labels, truth, logits)
    truth, guess = truth.ravel(), logits.argmax(-1).ravel()
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (truth, guess), 1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", *range(classes)])
    writer.writerows([label, *row] for label, row in enumerate(counts.tolist()))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell = max(1, min(_CELL, _SIDE // classes))
    return {
        "csv": text.getvalue(),
        "png": _image(np.kron(shares, np.ones((cell, cell)))),
    }


def images(
    predictions: Callable, *, inputs: str, labels: str | None, examples: int
) -> dict[str, Any]:
    """Images of the validation split, and what the model makes of each.

    With labels that is text, a line for each image, row by row: the true class and the
    predicted one. Without labels the outputs are images, which stand below.

    Args:
      predictions: see docs/hooks.md.
      inputs: the column with the images [H, W, C].
      labels: the column with the true class; None: the model reconstructs.
      examples: how many images.
    """
    batch, outputs = predictions(examples)
    given = _column(batch, "inputs", inputs)
    if given.ndim != 4 or given.shape[-1] not in (1, 3):
        raise ConfigError(
            f"images: inputs={inputs} has examples of shape "
            f"{given.shape[1:]}, and must have images, [H, W, 1] or [H, W, 3]"
        )
    if labels is None:
        if outputs.size != given.size:
            raise ConfigError(
                "images: without labels the outputs must be images of "
                f"{given.shape[1:]}, and they are of {outputs.shape[1:]}"
            )
        return {"png": _image(_grid([given, outputs.reshape(given.shape)]))}
    truth = _column(batch, "labels", labels)
    _classes("labels", labels, truth, outputs)
    lines = ["true predicted"] + [
        f"{label} {guess}"
        for label, guess in zip(truth, outputs.argmax(-1), strict=True)
    ]
    return {"png": _image(_grid([given])), "txt": "\n".join(lines) + "\n"}


def text_samples(
    predictions: Callable,
    predict: Callable,
    decode: Callable | None,
    step: int,
    seed: int,
    *,
    inputs: str,
    samples: int,
    prompt: int,
    length: int,
    temperature: float,
) -> dict[str, str]:
    """Text that a language model writes: prompts of the validation split, continued.

    The same seed, step and parameters give the same text.

    Args:
      predictions, predict, decode, step, seed: see docs/hooks.md.
      inputs: the column with the tokens that the model gets.
      samples: how many texts.
      prompt: how many tokens of an example each begins with.
      length: how many tokens follow.
      temperature: the logits are divided by it; 0 takes the likeliest token.
    """
    batch, logits = predictions(samples)
    tokens = _column(batch, "inputs", inputs)
    _classes("inputs", inputs, tokens, logits)
    if tokens.ndim != 2:
        raise ConfigError(f"inputs={inputs} must be tokens, and has {tokens.shape[1:]}")
    window = tokens.shape[1]
    if not 1 <= prompt <= window:
        raise ConfigError(
            f"text_samples: prompt={prompt} must be from 1 to the {window} "
            "tokens of an example"
        )
    written = tokens[:, :prompt]
    rng = np.random.default_rng([seed, step])
    for _ in range(length):
        last = written[:, -window:]
        padded = np.zeros((len(last), window), tokens.dtype)
        padded[:, : last.shape[1]] = last  # a model doesn't see what comes later
        logits = predict(padded)[:, last.shape[1] - 1].astype(np.float64)
        if temperature > 0:
            logits = logits / temperature + rng.gumbel(size=logits.shape)
        chosen = logits.argmax(-1).astype(tokens.dtype)
        written = np.concatenate([written, chosen[:, None]], axis=1)
    say = decode or (lambda one: " ".join(map(str, one)))
    texts = [f"{say(x[:prompt])}|{say(x[prompt:])}\n" for x in written.tolist()]
    return {"txt": "\n".join(texts)}


def _column(batch: Mapping[str, np.ndarray], key: str, name: str) -> np.ndarray:
    """A column of the data, which the argument `key` names."""
    if name not in batch:
        raise ConfigError(
            f"{key}={name} is not a column of the data, which has {', '.join(batch)}."
            + did_you_mean(name, batch)
        )
    return batch[name]


def _classes(key: str, name: str, column: np.ndarray, logits: Any) -> int:
    """How many classes the outputs have, of which a column has one for each of them."""
    shape = np.shape(logits) or (0,)
    if (
        column.shape != shape[:-1]
        or not np.issubdtype(column.dtype, np.integer)
        or not 0 <= column.min() <= column.max() < shape[-1]
    ):
        raise ConfigError(
            f"{key}={name} must be whole numbers, the classes or tokens for which the "
            f"model gives outputs: it is {column.dtype}{[*column.shape[1:]]}, and the "
            f"outputs are {[*shape[1:]]}"
        )
    return shape[-1]


def _grid(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Images [n, H, W, C] side by side, each of `rows` below the one before."""
    gap = ((0, 0), (0, _GAP), (0, _GAP), (0, 0))
    return np.concatenate(
        [np.concatenate(np.pad(row.astype(np.float32), gap), axis=1) for row in rows]
    )


def _image(values: np.ndarray) -> Any:
    """An image whose least value is black and whose largest is white."""
    from PIL import Image

    values = np.nan_to_num(np.asarray(values, np.float32))
    low, high = values.min(), values.max()
    scaled = 255 * (values - low) / (high - low if high > low else 1)
    pixels = scaled.round().astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1:] == (1,) else pixels)
