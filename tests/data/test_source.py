"""Anything with a length and examples by number is read, but no more than is asked."""

import itertools
import re
import threading
from collections import namedtuple

import jax
import numpy as np
import pytest

from helpers.user_sources import Batches, Given, Pairs, Points, Reused, as_grain, points
from runner.config.users_code import raised
from runner.data.batches import eval_batches, eval_indices, train_batches
from runner.data.digest import data_digest
from runner.data.source import source
from runner.errors import ConfigError


def made(train=None, **changes):
    given = dict(
        train=Points() if train is None else train, validation=None, test=None,
        columns=None, classes={}, files=[], transforms=[], batch_size=4,
        reshuffle=True, mode="stream", device_limit_mb=256, memory_limit_mb=1024,
        threads=2,
    )  # fmt: skip
    return source(**given | changes)


def first(data, count=20, start=0):
    batches = train_batches(data, data.order(0, None), start)
    return list(itertools.islice(batches, count))


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


WANTED = first(made())


@pytest.mark.parametrize(
    "given", [Pairs(), Batches(), points, as_grain()],
    ids=["tuples", "batches", "function", "grain"],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["stream", "memory", "device"])
def test_every_kind_of_source_gives_the_same_batches(given, mode):
    assert_same(first(made(given, mode=mode)), WANTED)


def test_examples_are_what_the_source_has():
    (batch,), order = first(made(), 1), made().order(0, None)
    wanted = [Points()[i] for i in order.indices_at(0).tolist()]
    np.testing.assert_array_equal(batch["label"], [each["label"] for each in wanted])
    inputs = np.stack([each["input"] for each in wanted]).astype(np.float32)
    np.testing.assert_array_equal(batch["input"], inputs)
    assert batch["label"].dtype == np.int32


def test_a_stream_reads_what_is_asked_in_threads_and_keeps_nothing():
    train, held_out = Points(10**9), Points(30)
    data = made(train, validation=held_out, threads=3)
    train.size = 1000  # its order would take long
    data = made(train, validation=held_out, threads=3)
    train.reads.clear()
    assert len(first(data, 5)) == 5
    asked = data.order(0, None).indices(0, 30).ravel().tolist()
    assert {number for number, _ in train.reads} <= {*asked, 0}
    assert len(train.reads) < 120
    threads = {thread for _, thread in train.reads} - {threading.current_thread()}
    assert 1 <= len(threads) <= 3
    rows, _ = eval_indices(data, "validation")
    held_out.reads.clear()
    batches = list(eval_batches(data, "validation", rows))
    assert_same(batches, [data.splits["validation"].rows(each) for each in rows])
    assert {thread for _, thread in held_out.reads} - {threading.current_thread()}


def test_batches_continue_at_any_step():
    assert_same(first(made(), 13, start=7), WANTED[7:])


def test_columns_by_names_and_places():
    batch = first(made(columns={"x": "input"}), 1)[0]
    assert_same(batch, {"x": WANTED[0]["input"]})
    batch = first(made(Pairs(), columns={"y": 1, "x": 0}), 1)[0]
    assert_same(batch, {"x": WANTED[0]["input"], "y": WANTED[0]["label"]})
    (batch,) = first(made(Given(*np.eye(4)), batch_size=4), 1)
    assert batch["input"].sum(0).tolist() == [1] * 4
    named = namedtuple("Named", "u, v")
    (batch,) = first(made(Given(named(1, True)), batch_size=1), 1)
    assert batch["u"].tolist() == [1] and batch["v"].dtype == bool


def test_classes_are_given_or_the_sources_own():
    assert made(classes={"label": 7}).features["label"].classes == 7
    assert made(Batches()).classes == {"label": 2}
    renamed = made(Batches(), columns={"x": "input", "y": "label"})
    assert renamed.classes == {"y": 2}
    with pytest.raises(ConfigError, match=r"data.train: .* label that is not from"):
        first(made(classes={"label": 1}))


def test_digests(tmp_path, monkeypatch):
    digest = data_digest(made())
    assert digest == data_digest(made(mode="memory")) != data_digest(made(Points(65)))
    (tmp_path / "file").write_text("x")
    files = {"files": [str(tmp_path / "*")]}
    assert data_digest(made(**files)) == digest  # not of files that hold more
    monkeypatch.setattr("runner.data.digest.LARGEST", 100)
    monkeypatch.setattr("runner.data.source.LARGEST", 100)
    assert set(data_digest(made(**files))) == {"files"}
    assert set(data_digest(made())) == {"sample"}


@pytest.mark.parametrize("fails_at", [0, 40])
@pytest.mark.parametrize("mode", ["stream", "memory"])
def test_what_a_source_raises_is_shown_as_its_own(mode, fails_at):
    with pytest.raises(ValueError, match=rf"nothing at {fails_at}") as caught:
        first(made(Points(fails_at=fails_at), mode=mode))
    told = raised(caught.value)
    assert told and "user_sources.py" in told and "in __getitem__" in told


def test_what_a_source_raises_is_no_mistake_in_the_configuration(built):
    failing = "data.train={_target_: helpers.user_sources.Points, fails_at: 0}"
    with pytest.raises(ValueError, match=r"^nothing at 0$"):
        built("data=source", failing)


MISTAKES = [
    ({"train": 5}, "data.train is 5, which has no __len__"),
    ({"train": "folder"}, "data.train=folder is text.*'data.train={_target_: folder}'"),
    ({"train": iter([1])}, "data.train is a list_iterator, which has no __len__"),
    ({"train": {"train": Points(), "test": 0}}, "data.train is a dict of train, test"),
    ({"train": Reused()}, "data.train: reading example 1 changes input of example 0"),
    ({"train": Points(0)}, "data.train has 0 examples, and must have from 1"),
    ({"train": Points(2**31)}, "data.train has 2147483648 examples"),
    ({"train": Given((1, 2, 3))}, "example 0 is a tuple of 3 parts; name them, as in"),
    ({"train": Given({"x": "text"})}, "example 0 has x that is str, not numbers"),
    ({"train": Given({"x": None})}, "example 0 has x that is NoneType, not numbers"),
    ({"train": Given({"x": [[1], [1, 2]]})}, "example 0 has x that is no array"),
    ({"train": Given({"x": 2**31})}, "has x with 2147483648, which 32 bits"),
    ({"train": Given({"x": -1e39})}, "has x with -1e.39, which 32 bits"),
    ({"train": Given([1], [1, 2])}, r"example 1 has input of shape \(2,\), int32, and"),
    ({"train": Given({"x": 1}, {"x": 1.5})}, "example 1 has x of shape .* float32"),
    ({"train": Given({"x": 1}, {"y": 1})}, "data.train: example 1 has no x"),
    ({"columns": {"input": "inptu"}}, "input=inptu: .* Did you mean 'input'"),
    ({"columns": {"input": 0}}, "data.columns.input=0: data.train: example 0 has no"),
    ({"classes": {"lable": 2}}, "data.classes.lable is not .* Did you mean 'label'"),
    ({"classes": {"label": 0}}, "data.classes.label=0 must be a number of classes"),
    ({"classes": {"input": 2}}, "data.classes.input=2 .* it is float32"),
    ({"validation": Points(shape=(4,))}, "data.validation has examples of"),
    ({"threads": 0}, "data.threads=0 must be at least 1"),
    ({"files": ["nowhere/*"]}, "data.files=nowhere/. is no file"),
    ({"mode": "disk"}, "data.mode='disk' must be one of auto, device"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_a_mistake_is_told(changes, message):
    changes = {"batch_size": 1} | changes
    with pytest.raises(ConfigError, match=re.compile(message, re.DOTALL)):
        first(made(**changes))


def test_a_source_trains_on_two_devices_as_on_one(trained):
    given = (
        "data=source", "framework=jax", "model.hidden_sizes=[4]", "train.epochs=2",
        "data.classes={label: 2}", "data.batch_size=16",
        "data.train={_target_: helpers.user_sources.Points}",
        "data.validation={_target_: helpers.user_sources.points, size: 19}",
    )  # fmt: skip
    alone = trained(*given)
    both = trained(*given, "mesh=data", "mesh.data=2")
    assert alone[-1]["validation/loss"] == pytest.approx(
        both[-1]["validation/loss"], rel=1e-5
    )
