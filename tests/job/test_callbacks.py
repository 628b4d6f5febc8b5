"""Callbacks leave files after evaluations, and change no bit of the training."""

import numpy as np
import pytest
from PIL import Image

from helpers import user_targets
from helpers.text import POEM
from runner.config.explain import reason
from runner.errors import ConfigError
from runner.job.callbacks import Callbacks
from runner.record.files import to_json
from runner.tasks import callbacks

LENGTH = "train.steps=12", "train.eval_every_steps=6", "train.log_every_steps=4"
SHIPPED = (
    "+callback@callbacks.confusion=confusion_matrix", "+callback@callbacks.some=images",
    "callbacks.some.examples=3",
)  # fmt: skip
SEEN = "+callbacks.seen._target_=helpers.user_targets.seen"


def written(folder):
    files = folder.rglob("files/*/*")
    return {str(path.relative_to(folder / "files")): path for path in files}


def test_those_that_come_with_runner(ran, tmp_path):
    plain = ran(tmp_path / "plain", *LENGTH)
    assert to_json(ran(tmp_path / "run", *LENGTH, *SHIPPED)) == to_json(plain)
    found = written(tmp_path / "run")
    assert sorted(found) == [
        f"{name}/{step}.{ending}"
        for name, endings in (("confusion", ("csv", "png")), ("some", ("png", "txt")))
        for step, ending in [(s, e) for s in (12, 6) for e in endings]
    ]
    table = np.loadtxt(found["confusion/12.csv"], delimiter=",", skiprows=1)
    hits, count = np.trace(table[:, 1:]), table[:, 1:].sum()
    assert hits / count == pytest.approx(plain[-1]["validation/accuracy"])
    with Image.open(found["some/6.png"]) as image:
        assert image.size == (3 * (8 + 2), 8 + 2)
    assert len(found["some/6.txt"].read_text().splitlines()) == 1 + 3


def test_what_they_get(ran, tmp_path):
    rows = ran(tmp_path, *LENGTH, SEEN, "train.ema_decay=0.5")
    (one, other) = user_targets.SEEN[-2:]
    assert [each["step"] for each in (one, other)] == [6, 12]
    assert other["metrics"]["validation/loss"] == rows[-1]["validation/loss"]
    # Those that are evaluated, here an average.
    batch, outputs = other["predictions"]
    assert outputs.argmax(-1).shape == batch["label"].shape == (100,)
    # Of another batch size, so in another order: to a bit of float32 near 1.
    np.testing.assert_allclose(other["predicted"], outputs[:5], rtol=1e-5, atol=1.2e-7)
    assert other["parameters"]["output"]["kernel"].shape == (16, 10)


def test_outputs_of_several_names_keep_them(ran, tmp_path, monkeypatch):
    plain = Callbacks._predicted

    def named(self, state, inputs):
        inner = self._predict
        monkeypatch.setattr(self, "_predict", lambda *a: {"a": inner(*a)})
        return plain(self, state, inputs)["a"]

    monkeypatch.setattr(Callbacks, "_predicted", named)
    ran(tmp_path, *LENGTH[:1], "train.eval_every_steps=12", SEEN)
    assert user_targets.SEEN[-1]["predicted"].shape == (5, 10)


def test_text_of_a_language_model(ran, tmp_path):
    (tmp_path / "poem.txt").write_text(POEM * 20)
    asked = (
        "data=text", f"data.path={tmp_path / 'poem.txt'}", "data.block_size=8",
        f"data.data_dir={tmp_path}", "data.batch_size=8", "model=transformer",
        "model.width=8", "model.heads=2", "model.layers=1", "task=language_model",
        "+callback@callbacks.said=text_samples", "callbacks.said.length=12",
        "callbacks.said.samples=2", "callbacks.said.prompt=4", "~model.hidden_sizes",
        "train.steps=2", "train.eval_every_steps=2",
    )  # fmt: skip
    for name in ("one", "other"):
        ran(tmp_path / name, *asked)
    one, other = (written(tmp_path / n)["said/2.txt"] for n in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    first, second = one.read_text().split("|")[:2]
    assert first in POEM and len(first) == 4 and second


def test_a_mistake_ends_the_run_and_loses_no_row(ran, tmp_path):
    with pytest.raises(ArithmeticError) as caught:
        ran(tmp_path, *LENGTH, "+callbacks.bad._target_=helpers.raising.callback")
    told = reason(caught.value)
    assert "mine to see" in told and "raising.py" in told and "src/runner" not in told
    assert '"step": 6' in (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("numbers", "callbacks.x: it returned 0.5, and must return a dict"),
        ("outside", "callbacks.x: it returned {'../up.txt': 'text'}, and must return"),
        ("see_through", "callbacks.x: it returned {'jpg': "),
        ("half_saved", "callbacks.x: it returned {'png': "),
        ("none_of_them", r"callbacks.x: predictions\(0\): it takes a whole number"),
        ("wrong_inputs", r"callbacks.x: predict, with inputs of \(2, 3\): TypeError"),
        ("untyped", "callbacks.x.inputs must be given"),
    ],
)
def test_what_isnt_a_file_is_refused(ran, tmp_path, target, said):
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        ran(tmp_path, *LENGTH, f"+callbacks.x._target_=helpers.user_targets.{target}")
    assert not written(tmp_path)


@pytest.mark.parametrize(
    ("called", "asked", "said"),
    [
        (callbacks.confusion_matrix, {"labels": "lable"}, "Did you mean 'label'"),
        (callbacks.confusion_matrix, {"labels": "input"}, "labels=input must be whole"),
        (callbacks.confusion_matrix, {"labels": "large"}, "labels=large must be whole"),
        (callbacks.images, {"inputs": "inptu", "labels": None}, "mean 'input'"),
        (callbacks.images, {"inputs": "input", "labels": "large"}, "labels=large must"),
        (callbacks.images, {"inputs": "input", "labels": None}, "images of .4, 4, 1."),
    ],
)
def test_columns_that_shipped_ones_cannot_use(called, asked, said):
    batch = {
        "input": np.zeros((2, 4, 4, 1), np.float32),
        "label": np.array([0, 1]),
        "large": np.array([0, 3]),
    }
    with pytest.raises(ConfigError, match=said):
        called(lambda count: (batch, np.zeros((2, 3))), **asked, examples=2)


@pytest.mark.parametrize(("classes", "side"), [(10, 160), (300, 900), (1200, 1200)])
def test_a_picture_of_many_classes_stays_small(classes, side):
    batch, logits = {"label": np.array([0])}, np.zeros((1, classes))
    found = callbacks.confusion_matrix(
        lambda count: (batch, logits), labels="label", examples=1
    )
    assert found["png"].size == (side, side)


def test_text_is_written_from_tokens_alone():
    pixels = {"input": np.zeros((2, 4, 4, 1), np.float32)}
    asked = {"inputs": "input", "samples": 2, "prompt": 1, "length": 1}
    with pytest.raises(ConfigError, match="inputs=input must be whole numbers"):
        callbacks.text_samples(
            lambda count: (pixels, np.zeros((2, 3))), print, None, 1, 0, **asked,
            temperature=1,
        )  # fmt: skip


def test_data_without_a_validation_split_have_no_evaluation(built, ran, tmp_path):
    none = "data.splits.validation=null", "data.splits.test=null"
    with pytest.raises(ConfigError, match="no validation split"):
        ran(tmp_path, *LENGTH, SEEN, *none, "objective=train/loss")
