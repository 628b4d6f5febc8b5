"""Classes that don't exist are refused with their number, or left out."""

import numpy as np
import pytest

from runner.data.dataset import MemorySplit
from runner.data.labels import labelled
from runner.errors import ConfigError

CLASSES = {"label": 3}


class Streamed:
    """A split that is read piece by piece."""

    def __init__(self, columns):
        self._split = MemorySplit(columns)

    def __len__(self):
        return len(self._split)

    def rows(self, indices):
        return self._split.rows(indices)


@pytest.fixture(params=[MemorySplit, Streamed])
def split(request):
    labels = np.arange(3000, dtype=np.int32) % 3
    labels[[7, 2500]] = -1, 3
    return request.param({"x": np.arange(3000), "label": labels})


def test_they_are_refused_with_their_number(split):
    with pytest.raises(ConfigError, match=r"there: \d examples have a label") as error:
        checked = labelled(split, CLASSES, "there", drop=False)
        checked.rows(np.arange(len(checked)))
    assert "2 examples" in str(error.value)
    assert "data.unlabelled=drop" in str(error.value)


def test_data_without_that_setting_say_another_way_out(split):
    with pytest.raises(ConfigError, match=r"there: .* or the number in data.classes"):
        labelled(split, CLASSES, "there", drop=None).rows(np.arange(3000))


def test_or_left_out(split):
    kept = labelled(split, CLASSES, "there", drop=True)
    assert len(kept) == 2998
    rows = kept.rows(np.arange(2998))
    assert set(rows["label"]) == {0, 1, 2}
    assert sorted({*range(3000)} - {*rows["x"].tolist()}) == [7, 2500]


def test_tokens_are_checked_one_by_one():
    split = MemorySplit({"tokens": np.array([[0, 1], [2, 5]])})
    with pytest.raises(ConfigError, match="1 example has a tokens"):
        labelled(split, {"tokens": 3}, "there", drop=False)
    assert len(labelled(split, {"tokens": 3}, "there", drop=True)) == 1
