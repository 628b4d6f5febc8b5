"""The loop: what it records, when, and that how it is cut changes nothing."""

import math

import jax
import numpy as np
import pytest

from helpers.training import train_run
from runner.core import timetable
from runner.core.timetable import Timetable
from runner.errors import TrainingStopped
from runner.record.files import to_json

LENGTH = ("train.steps=50", "train.epochs=null")


def test_rows_are_those_asked_for(trained):
    rows = trained(*LENGTH, "train.log_every_steps=20", "train.eval_every_steps=15")
    assert [row["step"] for row in rows] == [1, 15, 20, 30, 40, 45, 50]
    evaluated = [row["step"] for row in rows if "validation/loss" in row]
    assert evaluated == [15, 30, 45, 50]
    for row in rows:
        assert {"train/loss", "train/learning_rate", "train/grad_norm"} <= set(row)
        assert {"train/update_norm", "train/accuracy"} <= set(row)


def test_how_calls_are_cut_changes_nothing(trained):
    asked = (*LENGTH, "train.log_every_steps=1", "model.hidden_sizes=[16]")
    whole = trained(*asked, "train.steps_per_call=50")
    for per_call in (1, 7, "auto"):
        cut = trained(*asked, f"train.steps_per_call={per_call}")
        assert to_json(cut) == to_json(whole), per_call


def test_neither_do_blocks(trained, monkeypatch):
    """A long run computes norms only in steps that may be logged."""
    asked = (*LENGTH, "train.log_every_steps=4", "train.eval_every_steps=24")
    short = trained(*asked)
    monkeypatch.setattr(timetable, "SHORT", 0)
    assert to_json(trained(*asked)) == to_json(short)
    assert Timetable(50, 24, 4).cut(1024) == (4, (6,))


@pytest.mark.smoke
def test_same_config_same_bits(trained):
    assert to_json(trained(*LENGTH)) == to_json(trained(*LENGTH))


def test_modes_of_feeding_agree_bit_for_bit(trained):
    asked = (
        *LENGTH, "train.steps_per_call=8", "train.log_every_steps=1",
        "model.hidden_sizes=[16]",
    )  # fmt: skip
    device = trained(*asked, "data.mode=device")
    for mode in ("memory", "stream"):
        assert to_json(trained(*asked, f"data.mode={mode}")) == to_json(device), mode


def test_another_seed_is_another_run(trained):
    one, other = (trained(*LENGTH, f"seed={seed}") for seed in (0, 1))
    assert one[0]["train/loss"] != other[0]["train/loss"]


def test_batches_are_sharded_over_the_devices(built):
    from runner.core import feed

    run = built(*LENGTH, "mesh=data", "data.mode=memory")
    spec = run.spec
    batches = feed.TrainFeed(spec.dataset, [run.order], spec.mesh, 0).take(4)
    shards = batches["input"].addressable_shards
    assert len(shards) == len(jax.devices()) == 8
    assert {shard.data.shape for shard in shards} == {(4, 8, 8, 8, 1)}


@pytest.mark.smoke
def test_nan_stops_at_its_step_and_keeps_the_rows(built):
    run = built(*LENGTH, "optimizer=sgd", "optimizer.learning_rate=1e6")
    rows = []
    with pytest.raises(TrainingStopped, match=r"nan at step (\d+)") as stopped:
        train_run(run, rows.append)
    step = int(str(stopped.value).split("step ")[1].split(".")[0])
    assert rows[-1]["step"] == step and math.isnan(rows[-1]["train/loss"])
    assert all(math.isfinite(row["train/loss"]) for row in rows[:-1])


def test_too_little_memory_is_told_in_one_message(trained):
    hungry = "data.transforms=[{_target_: helpers.user_targets.takes_all_memory}]"
    message = "a device has too little memory: .* bytes.*A smaller data.batch_size"
    with pytest.raises(TrainingStopped, match=message):
        trained(*LENGTH, hungry)


def test_nan_may_be_told_to_go_on(trained):
    rows = trained(
        *LENGTH, "optimizer=sgd", "optimizer.learning_rate=1e6", "train.on_nan=continue"
    )
    assert rows[-1]["step"] == 50 and math.isnan(rows[-1]["train/loss"])


def test_an_evaluation_that_is_not_finite_stops_too(built):
    """The last update makes the parameters infinite: only the evaluation shows it."""
    run = built("train.steps=1", "train.epochs=null", "optimizer=sgd",
                "optimizer.learning_rate=1e38")  # fmt: skip
    rows = []
    with pytest.raises(
        TrainingStopped, match=r"validation/loss is (nan|inf) at step 1"
    ):
        train_run(run, rows.append)
    assert math.isfinite(rows[-1]["train/loss"])


@pytest.mark.parametrize(
    "activation,hint",
    [("relu", "Try a lower optimizer.learning_rate"), ("log1p", "No update was made")],
)
def test_the_hint_fits_the_cause(built, activation, hint, monkeypatch):
    """At step 1, no learning rate has acted yet."""
    monkeypatch.setattr(jax.nn, "log1p", lambda x: jax.numpy.log(x), raising=False)
    run = built(*LENGTH, "optimizer=sgd", "optimizer.learning_rate=1e6",
                f"model.activation={activation}")  # fmt: skip
    with pytest.raises(TrainingStopped, match=hint):
        train_run(run, lambda row: None)


def test_find_nan_names_the_operation(built):
    """With a model whose activation takes the logarithm of a negative number."""
    asked = ("model.activation=log_sigmoid", "debug=find_nan", "optimizer=sgd")
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        train_run(built(*asked, "optimizer.learning_rate=1e30"), lambda row: None)


def test_find_nan_names_the_operation_after_a_verification(built):
    """That leaves `jax.debug_nans(False)`; the first step has no NaN."""
    jax.config.update("jax_debug_nans", True)
    try:
        with jax.debug_nans(False):
            pass
        run = built("debug=find_nan", "optimizer=sgd", "optimizer.learning_rate=1e30")
        with pytest.raises(FloatingPointError, match="nan"):
            train_run(run, lambda row: None)
    finally:
        jax.config.update("jax_debug_nans", False)


def test_one_batch_is_overfit(trained):
    rows = trained("debug=overfit")
    assert rows[-1]["train/loss"] < 0.05 < rows[0]["train/loss"]


def test_evaluation_is_the_mean_over_every_example(built, trained):
    """180 images in batches of 64: the last batch is padded."""
    from runner.data.transforms import transformed

    asked = "train.steps=1", "train.epochs=null", "model.hidden_sizes=[16]"
    rows, run = trained(*asked), built(*asked)
    dataset, pipeline = run.spec.dataset, run.spec.pipeline
    state = jax.jit(pipeline.init)(run.init_key, 1e-3, run.values.hyperparameters)
    batch = transformed(
        dataset.transforms, dataset.train.rows(run.order.indices_at(0)), None
    )

    @jax.jit
    def step(state, batch):
        total, grads, _ = pipeline.gradients(state, batch, run.values.key)
        loss, numbers = total.loss / 64, run.values.hyperparameters
        given = grads, loss, 1e-3, numbers, None, np.inf
        return pipeline.apply_gradients(state, *given)

    state = step(state, batch)
    split = dataset.splits["validation"]
    batch = transformed(dataset.transforms, split.rows(np.arange(180)), None)
    assert len(split) == 180
    outputs = pipeline.predict(state, batch["input"])
    losses, _ = run.spec.task.loss(outputs, batch)
    hits = np.argmax(outputs, axis=-1) == batch["label"]
    np.testing.assert_allclose(rows[-1]["validation/loss"], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(rows[-1]["validation/accuracy"], hits.mean(), rtol=1e-5)


@pytest.mark.smoke
def test_golden_losses(trained):
    """If this fails and you changed neither the initial values, the order of the
    examples, the default model nor the optimizer, then something else changed the
    training of everybody: find out what. If you did, copy the new numbers from the
    failure, and say in CHANGELOG that runs are not comparable with earlier ones.
    """
    rows = trained("train.epochs=2", "train.log_every_steps=22")
    golden = {1: GOLDEN_FIRST, 22: GOLDEN_EPOCH, 44: GOLDEN_LAST}
    for row in rows:
        np.testing.assert_allclose(row["train/loss"], golden[row["step"]], rtol=1e-4)


GOLDEN_FIRST, GOLDEN_EPOCH, GOLDEN_LAST = 2.33763, 1.91505, 1.184386
