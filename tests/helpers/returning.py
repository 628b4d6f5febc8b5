"""Functions of a user's that return what runner can't use."""

from typing import Any

import jax.numpy as jnp
import optax
from flax import linen, nnx

from runner.core.pipeline import Pipeline
from runner.models.model import Model
from runner.tasks.metric import Metric, average
from runner.tasks.task import Task


def nothing() -> None:
    return None


def layer(*, inputs: Any, output: Any):
    return nnx.Linear(3, 4, rngs=nnx.Rngs(0))


def made_nnx(*, inputs: Any, output: Any):
    return Model(nnx=nnx.Linear(3, 4, rngs=nnx.Rngs(0)))


def made_linen(*, inputs: Any, output: Any):
    return Model(linen=linen.Dense(10))


def no_nnx_module(*, inputs: Any, output: Any):
    return Model(nnx=lambda rngs: lambda x: x)


def no_linen_module(*, inputs: Any, output: Any):
    return Model(linen=lambda: linen.relu)


def a_number_as_form(*, inputs: Any, output: Any):
    return Model(linen=3)


def linen_alone(*, inputs: Any, output: Any):
    return Model(linen=lambda: linen.Dense(10))


class WithoutTrain(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(10)(x.reshape(len(x), -1))


def without_train(*, inputs: Any, output: Any):
    return Model(linen=lambda: WithoutTrain())


def layers_that_dont_fit(*, inputs: Any, output: Any):
    def layers(rngs):
        first, last = nnx.Linear(64, 8, rngs=rngs), nnx.Linear(9, 10, rngs=rngs)
        return nnx.Sequential(lambda x: x.reshape(len(x), -1), first, last)

    return Model(nnx=layers)


class Flat(linen.Module):
    def __call__(self, x, train):
        return x.reshape(len(x), -1)


def linen_layers_that_dont_fit(*, inputs: Any, output: Any):
    return Model(linen=lambda: linen.Sequential([Flat(), linen.Conv(4, (9, 9, 9))]))


def _loss(outputs, batch):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch["label"]), 1.0


def _inputs(batch):
    return batch["input"]


def a_function(*, features: Any):
    return _loss


def output_without_shape(*, features: Any):
    return Task(_inputs, 10, _loss)


def a_column_as_inputs(*, features: Any):
    return Task("input", (10,), _loss)


def a_loss_alone(*, features: Any):
    return Task(_inputs, (10,), lambda outputs, batch: _loss(outputs, batch)[0])


def own_metric(*, features: Any):
    return Task(_inputs, (10,), _loss, {"sure": lambda outputs, batch: 1.0})


def a_class():
    return Metric


def another_better():
    return average(lambda outputs, batch: outputs.max(-1), better="higher")


def two_arguments():
    return average(lambda outputs: outputs.max(-1), better="max")


def rate_alone(learning_rate: Any):
    return learning_rate


def optimizers(learning_rate: Any):
    return optax.adam(learning_rate), optax.sgd(learning_rate)


def rates():
    return lambda step: jnp.ones(3)


def no_rate():
    return lambda step: None


def rate_of_two():
    return lambda step, total: 0.1


def no_batch():
    return lambda batch, key, train: None


def a_column():
    return lambda batch, key, train: batch["input"]


def without_train_argument():
    return lambda batch, key: batch


def half_a_column():
    return lambda batch, key, train: batch | {"label": batch["label"][::2]}


def one_number():
    return lambda batch, key, train: batch | {"share": jnp.float32(0.3)}


def without_functions(model: Any, task: Any, optimizer: Any):
    return Pipeline(None, None, None, None)
