"""What a user's own functions may raise, for `_target_: helpers.raising.x`."""

import jax.numpy as jnp

from runner.models.model import Model
from runner.tasks.metric import Metric, average
from runner.tasks.task import Task


def fail(*_):
    raise ArithmeticError("mine to see")


def fail_with(text):
    raise ArithmeticError(text)


def init(key):
    return {"w": jnp.ones(())}, {}


def called(*, inputs):
    fail()


def while_initializing(*, inputs, output):
    return Model(init=lambda key: fail(), jax=lambda *_: None)


def while_tracing(*, inputs, output):
    return Model(init=init, jax=lambda params, state, x, key, train: fail())


def nnx_form(*, inputs, output):
    return Model(nnx=lambda rngs: fail())


def loss(*, features, class_weights):
    return Task(lambda batch: batch["input"], (10,), fail)


def loss_of_a_batch(*, features, class_weights):
    return Task(lambda batch: batch["input"], (10,), lambda o, b: (o.mean(), 1.0))


def loss_weights(*, features, class_weights):
    return Task(
        lambda batch: batch["input"], (10,), lambda o, b: (o[:, 0], jnp.ones((3,)))
    )


def metric():
    return average(fail, "min")


def metric_of_three():
    return average(lambda outputs, batch: jnp.ones((3,)), "min")


def metric_of_ten():
    return Metric(lambda o, batch, counted: o.sum(0), lambda sums: sums, "min")


def metric_of_text():
    return Metric(lambda o, batch, counted: counted.sum(), lambda sums: "many", "min")


def schedule():
    return fail


def transform():
    return fail


def data():
    fail()


def probe(gradients):
    fail()


def callback(step):
    fail()


KEPT = []


def keeping_transform():
    """It adds what it has computed in its first trace."""

    def transform(batch, key, train):
        KEPT.append(batch["input"].mean())
        return batch | {"input": batch["input"] + KEPT[0]}

    return transform


def keeping_metric():
    def update(outputs, batch, counted):
        KEPT.append(outputs.mean())
        return KEPT[0]

    return Metric(update, lambda sums: sums, "min")
