"""Losses against their definitions in NumPy, and sums against whole batches."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from runner.data.dataset import Feature
from runner.errors import ConfigError
from runner.tasks.classification import classification
from runner.tasks.language_model import language_model
from runner.tasks.metric import Metric
from runner.tasks.metrics import (
    accuracy,
    macro_f1,
    mae,
    mse,
    per_class_accuracy,
    perplexity,
    top_k,
)
from runner.tasks.reconstruction import reconstruction
from runner.tasks.regression import regression
from runner.tasks.task import numbers, sums

rng = np.random.default_rng(0)
FEATURES = {
    "input": Feature((2, 2, 1), "float32"),
    "label": Feature((), "int32", 4),
    "tokens": Feature((5,), "int32", 7),
    "mask": Feature((5,), "float32"),
    "y": Feature((3,), "float32"),
}
LOGITS = rng.normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 0, 1], np.int32)
LOG_P = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))
OWN_LOG_P = LOG_P[np.arange(6), LABELS]


def classes(**changes):
    given = {"inputs": "input", "labels": "label", "label_smoothing": 0.0}
    given |= {"class_weights": None, "features": FEATURES}
    return classification(**given | changes)


def found(task, outputs, batch, **more):
    batch = {name: jnp.asarray(column) for name, column in batch.items()}
    total = sums(task, jnp.asarray(outputs), batch, **more)
    return {name: float(x) for name, x in numbers(task, total).items()}


@pytest.mark.smoke
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing):
    targets = (1 - smoothing) * np.eye(4)[LABELS] + smoothing / 4
    got = found(classes(label_smoothing=smoothing), LOGITS, {"label": LABELS})
    expected = -(targets * LOG_P).sum(axis=1).mean()
    np.testing.assert_allclose(got["loss"], expected, rtol=1e-5)


def test_class_weights_weigh_examples():
    weights = np.array([1.0, 2.0, 0.0, 5.0])
    got = found(classes(class_weights=list(weights)), LOGITS, {"label": LABELS})
    each = weights[LABELS]
    np.testing.assert_allclose(
        got["loss"], -(each * OWN_LOG_P).sum() / each.sum(), rtol=1e-5
    )


@pytest.mark.parametrize("asked", ["weight", "auto"])
def test_weights_of_examples_multiply_those_of_classes(asked):
    of_classes = np.array([1.0, 2.0, 0.0, 5.0])
    weight = np.float32([1, 2, 0, 3, 1, 0.5])
    features = {**FEATURES, "weight": Feature((), "float32")}
    batch = {"label": LABELS, "weight": weight}
    task = classes(class_weights=list(of_classes), weights=asked, features=features)
    each = of_classes[LABELS] * weight
    wanted = -(each * OWN_LOG_P).sum() / each.sum()
    np.testing.assert_allclose(found(task, LOGITS, batch)["loss"], wanted, rtol=1e-5)
    targets, outputs = rng.normal(size=(2, 6, 3)).astype(np.float32)
    task = regression(features=features, inputs="input", target="y", weights=asked)
    wanted = (((outputs - targets) ** 2).mean(axis=1) * weight).sum() / weight.sum()
    got = found(task, outputs, {"y": targets, "weight": weight})["loss"]
    assert got == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ConfigError, match=r"task.weights=wait is not a column"):
        regression(features=features, inputs="input", target="y", weights="wait")


def test_padding_counts_nowhere_whatever_it_holds():
    task = classes()._replace(
        metrics={"accuracy": accuracy(labels="label"), "p": perplexity(labels="label")}
    )
    whole = found(task, LOGITS, {"label": LABELS})
    logits = np.concatenate([LOGITS, np.full((2, 4), np.nan, np.float32)])
    labels = np.concatenate([LABELS, [0, 3]])
    is_example = jnp.arange(8) < 6
    padded = found(task, logits, {"label": labels}, is_example=is_example)
    assert padded == pytest.approx(whole, rel=1e-6)


METRICS = {
    "accuracy": accuracy(labels="label"),
    "top2": top_k(labels="label", k=2),
    "per": per_class_accuracy(labels="label", features=FEATURES),
    "f1": macro_f1(labels="label", features=FEATURES),
    "perplexity": perplexity(labels="label"),
}


@pytest.mark.smoke
def test_the_metrics_of_classes():
    guesses = LOGITS.argmax(axis=1)
    task = classes()._replace(metrics=METRICS)
    many = classes()._replace(metrics={"top9": top_k(labels="label", k=9)})
    with pytest.raises(ConfigError, match=r"metrics.top9: k=9 is more than the 4"):
        found(many, LOGITS, {"label": LABELS})
    got = found(task, LOGITS, {"label": LABELS})
    best_two = np.argsort(LOGITS, axis=1)[:, 2:]
    f1 = []
    for c in range(4):
        of_class = LABELS == c
        share = (guesses == c)[of_class].mean()
        assert got[f"per/{c}"] == pytest.approx(share)
        both = (of_class & (guesses == c)).sum()
        f1.append(2 * both / (of_class.sum() + (guesses == c).sum()))
    assert got["accuracy"] == pytest.approx((guesses == LABELS).mean())
    assert got["top2"] == pytest.approx((best_two == LABELS[:, None]).any(1).mean())
    assert got["f1"] == pytest.approx(np.mean(f1))
    assert got["perplexity"] == pytest.approx(np.exp(-OWN_LOG_P.mean()), rel=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_labels_in_another_shape_are_no_broadcast(name):
    """[B] == [B, 1] would compare each example with each other one."""
    of_logits = classes()._replace(metrics={name: METRICS[name]})
    task = of_logits._replace(
        loss=lambda logits, batch: of_logits.loss(
            logits, {"label": batch["label"][:, 0]}
        )
    )
    with pytest.raises(ConfigError, match=rf"metrics.{name}: .* \(6, 1\).* \(6,\)"):
        found(task, LOGITS, {"label": LABELS[:, None]})


@pytest.mark.parametrize("name", [*METRICS, "mse"])
def test_outputs_that_are_several_are_refused_in_words(name):
    metric = {**METRICS, "mse": mse(target="label")}[name]
    task = classes()._replace(
        loss=lambda outputs, batch: (outputs["a"][:, 0], 1.0), metrics={name: metric}
    )
    with pytest.raises(ConfigError, match=rf"metrics.{name}: the model's outputs are"):
        sums(task, {"a": jnp.asarray(LOGITS)}, {"label": jnp.asarray(LABELS)})


def test_weights_below_0_are_those_of_the_formula():
    weights = np.array([1.0, -0.5, 2.0, 0.0, 1.5, -1.0], np.float32)
    features = FEATURES | {"w": Feature((), "float32")}
    task = classes(features=features, weights="w")
    got = found(task, LOGITS, {"label": LABELS, "w": weights})
    expected = -(weights * OWN_LOG_P).sum() / weights.sum()
    assert got["loss"] == pytest.approx(expected, rel=1e-5)


def test_reconstruction_and_regression_are_mean_squared_errors():
    images = rng.normal(size=(3, 2, 2, 1)).astype(np.float32)
    outputs = rng.normal(size=(3, 4)).astype(np.float32)
    task = reconstruction(features=FEATURES, inputs="input")
    got = found(task, outputs, {"input": images})
    expected = ((outputs - images.reshape(3, 4)) ** 2).mean()
    np.testing.assert_allclose(got["loss"], expected, rtol=1e-5)
    targets, outputs = rng.normal(size=(2, 6, 3)).astype(np.float32)
    task = regression(features=FEATURES, inputs="input", target="y")
    task = task._replace(metrics={"mae": mae(target="y"), "mse": mse(target="y")})
    got = found(task, outputs, {"y": targets})
    np.testing.assert_allclose(got["mae"], abs(outputs - targets).mean(), rtol=1e-5)
    assert got["loss"] == pytest.approx(((outputs - targets) ** 2).mean(), rel=1e-5)
    assert got["mse"] == pytest.approx(got["loss"], rel=1e-6)


@pytest.mark.parametrize("cut", [[0, 6], [0, 1, 6], [0, 2, 4, 6]])
def test_masked_tokens_weigh_alike_however_the_batch_is_cut(cut):
    """A mean of the parts' means would weigh the tokens of a short part more."""
    task = language_model(
        features=FEATURES, inputs="tokens", labels="tokens", mask="mask",
        label_smoothing=0.0,
    )  # fmt: skip
    task = task._replace(metrics={"accuracy": accuracy(labels="tokens")})
    logits = rng.normal(size=(6, 5, 7)).astype(np.float32)
    tokens = rng.integers(0, 7, (6, 5), np.int32)
    mask = (rng.random((6, 5)) < [[0.9], [0.1], [0.8], [0.2], [0.5], [0]]).astype("f")
    parts = []
    for start, stop in itertools.pairwise(cut):
        batch = {"tokens": tokens[start:stop], "mask": mask[start:stop]}
        batch = {name: jnp.asarray(column) for name, column in batch.items()}
        parts.append(sums(task, jnp.asarray(logits[start:stop]), batch))
    total = jax.tree.map(lambda *x: sum(x), *parts)
    got = {name: float(x) for name, x in numbers(task, total).items()}
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    each = -np.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
    assert got["loss"] == pytest.approx((each * mask).sum() / mask.sum(), rel=1e-6)
    hits = (logits.argmax(-1) == tokens) * mask
    assert got["accuracy"] == pytest.approx(hits.sum() / mask.sum(), rel=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float16", "bfloat16"])
def test_the_sums_of_many_batches_fit(dtype):
    """In one batch 100 do, in any of these types."""

    def update(outputs, batch, counted):
        return {"count": counted.sum().astype(dtype), "any": counted.any()}

    task = classes()._replace(
        metrics={"mine": Metric(update, lambda s: s["count"], None)}
    )
    batch = {"input": jnp.zeros((100, 2)), "label": jnp.zeros(100, jnp.int32)}
    one = sums(task, jnp.zeros((100, 4)), batch).metrics["mine"]
    total = jax.tree.map(lambda x: sum([x] * 29, x), one)
    assert total["count"] == 3000 and total["any"].dtype == bool


def test_a_batch_without_anything_that_counts_has_loss_0():
    got = found(classes(class_weights=[0.0] * 4), LOGITS, {"label": LABELS})
    assert got["loss"] == 0


@pytest.mark.parametrize(
    "changes,said",
    [
        ({"label_smoothing": 1.5}, r"task\.label_smoothing=1\.5"),
        ({"labels": "input"}, "input has no classes.*Try task.labels=label"),
        ({"labels": "lable"}, "lable is no column.*Try task.labels=label"),
        *(
            ({"labels": labels, "features": {k: FEATURES[k] for k in names}}, said)
            for labels, names, said in (
                ("y", "input y".split(), "y has no.*task=regression task.target=y"),
                ("label", "input y".split(), "no column.*task.target=y"),
                ("label", ["input"], "no column.*Try task=reconstruction"),
            )
        ),
        ({"inputs": "imput"}, "task.inputs=imput.*Did you mean 'input'"),
        ({"inputs": ["input", "mask2"]}, "task.inputs=mask2"),
        ({"class_weights": [1.0]}, "each of the 4 classes"),
        (
            {"features": FEATURES | {"label": Feature((1,), "int32", 4)}},
            r"task.labels=label must be one class of each example, shape \(\)",
        ),
    ],
)
def test_a_mistake_is_one_message(changes, said):
    with pytest.raises(ConfigError, match=said):
        classes(**changes)


def test_several_inputs_come_as_a_dict():
    batch = {"input": 1, "mask": 2, "label": 3}
    assert classes(inputs=["input", "mask"]).inputs(batch) == {"input": 1, "mask": 2}
    assert classes(inputs="input").inputs(batch) == 1
