"""The embedded data set: 1,797 handwritten digits of 8x8 pixels, as a TFDS builder.

Importing this module imports tensorflow_datasets, so import it where it is used.
"""

import gzip
from collections.abc import Iterator
from importlib import resources

import numpy as np
import tensorflow_datasets as tfds

_NUM_TRAIN = 1437  # 80 %; the other 360 are for evaluation


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """UCI Optical Recognition of Handwritten Digits; see DIGITS_LICENSE.txt.

    `image` is uint8 `[8, 8, 1]` from 0 to 16, `label` a class from 0 to 9. The splits,
    `train` and `test`, are cut from one fixed permutation.
    """

    # Not "digits": a user's own builder of that name would share the prepared folder.
    name = "runner_digits"
    # Raise it with any change of the examples or their order: folder names include
    # it, so data prepared by an older version is never read as this one.
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Tensor(
            shape=(8, 8, 1), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
        )
        label = tfds.features.ClassLabel(num_classes=10)
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.24432/C50P49",
        )

    def _split_generators(self, dl_manager):
        table = _table()
        table = table[np.random.default_rng(0).permutation(len(table))]
        return {
            "train": self._generate_examples(table[:_NUM_TRAIN]),
            "test": self._generate_examples(table[_NUM_TRAIN:]),
        }

    def _generate_examples(self, table: np.ndarray) -> Iterator[tuple[int, dict]]:
        for key, row in enumerate(table):
            yield key, {"image": row[:64].reshape(8, 8, 1), "label": int(row[64])}


def _table() -> np.ndarray:
    """uint8 `[1797, 65]`: 64 pixels and the class."""
    packed = resources.files("runner.data").joinpath("digits.csv.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    return np.loadtxt(lines, delimiter=",", dtype=np.uint8)
