"""What a user's own package may hold, for `data=source`."""

import threading
import types

import grain
import numpy as np


class Points:
    """Points in two classes, each made when it is read, as `reads` remembers."""

    def __init__(self, size=64, fails_at=None, shape=(3,)):
        self.size, self.fails_at, self.shape = size, fails_at, shape
        self.reads = []

    def __len__(self):
        return self.size

    def __getitem__(self, number):
        self.reads.append((number, threading.current_thread()))
        if number == self.fails_at:
            raise ValueError(f"nothing at {number}")
        rng = np.random.default_rng(number)
        return {"input": rng.normal(size=self.shape) + number % 2, "label": number % 2}


class Noisy(Points):
    """They are others each time that they are read."""

    def __getitem__(self, number):
        example = super().__getitem__(number)
        return example | {"input": np.random.default_rng().normal(size=self.shape)}


class Reused(Points):
    """Each is in the array in which the one before was."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.array = np.zeros(self.shape)

    def __getitem__(self, number):
        example = super().__getitem__(number)
        self.array[:] = example["input"]
        return example | {"input": self.array}


class Pairs(Points):
    """The same as tuples."""

    def __getitem__(self, number):
        return tuple(super().__getitem__(number).values())


class Batches(Points):
    """The same, with the methods of Hugging Face's data sets."""

    class _Label:
        num_classes = 2

    features = types.MappingProxyType({"label": _Label(), "input": None})

    def __getitems__(self, numbers):
        return [self[number] for number in numbers]


def points(size=64):
    return Points(size)


def as_grain(size=64):
    return grain.MapDataset.source(Points(size)).map(lambda example: dict(example))


class Given:
    """The examples that it is made with."""

    def __init__(self, *examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, number):
        return self.examples[number]
