"""What a user's own package may hold, for `_target_: helpers.user_targets.x`."""

import logging

import jax
import numpy as np
import optax
from flax import linen, nnx
from PIL import Image

from runner.data.dataset import Dataset, MemorySplit
from runner.data.linear_ae import linear_ae
from runner.models.model import Model
from runner.tasks.metric import Metric

# Overrides that choose `noisy`, below.
TOKENS = (
    "~data", "+data._target_=helpers.user_targets.tokens", "+data.batch_size=8",
    "+data.length=16", "+data.vocabulary=32", "task=language_model",
    "task.inputs=tokens", "task.labels=next",
)  # fmt: skip
NOISY = (
    "model._target_=helpers.user_targets.noisy",
    *(f"~model.{name}" for name in ("hidden_sizes", "activation", "dropout")),
)


def tokens(*, batch_size: int, length: int, vocabulary: int) -> Dataset:
    """Random tokens, and those that follow them."""

    def split(size: int) -> MemorySplit:
        rng = np.random.default_rng(size)
        drawn = rng.integers(vocabulary, size=(size, length + 1), dtype=np.int32)
        return MemorySplit({"tokens": drawn[:, :-1], "next": drawn[:, 1:]})

    return Dataset(
        name="tokens",
        splits={"train": split(4 * batch_size), "validation": split(batch_size)},
        classes={"tokens": vocabulary, "next": vocabulary},
        batch_size=batch_size,
        mode="device",
        transforms=[],
    )


def only_jax(*, inputs, output) -> Model:
    return Model(init=lambda key: ({}, {}), jax=lambda *_: None)


def other_output(*, inputs, output) -> Model:
    def init(key):
        return {"w": jax.numpy.ones(())}, {}

    def forward(params, model_state, x, key, train):
        return params["w"] * x.reshape(len(x), -1)[:, :3], model_state

    return Model(init=init, jax=forward)


def noisy(*, inputs, output) -> Model:
    """Two forms that have initial values, and a name for their noise, of their own."""
    (classes,) = output

    class Linen(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            x = x.reshape(len(x), -1)
            if train:
                x += jax.random.normal(self.make_rng("noise"), x.shape)
            return linen.Dense(classes, name="output")(x)

    class Nnx(nnx.Module):
        def __init__(self, rngs):
            size = jax.numpy.zeros(inputs.shape).size
            self.output = nnx.Linear(size, classes, rngs=rngs)
            self.dropout = nnx.Dropout(0.0)  # follows the mode
            self.rngs = rngs

        def __call__(self, x):
            x = x.reshape(len(x), -1)
            if not self.dropout.deterministic:
                x += jax.random.normal(self.rngs.noise(), x.shape)
            return self.output(x)

    return Model(linen=Linen, nnx=Nnx)


def raises(*, inputs):
    raise ValueError("mine to see")


def untyped(inputs, width=3, **more):
    return Model()


class LinenStrided(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.relu(linen.Conv(8, (3, 3), strides=2, padding="VALID")(x))
        x = linen.Conv(8, (3, 3), feature_group_count=4, kernel_dilation=2)(x)
        return linen.Dense(10)(linen.relu(x).mean((1, 2)))


class NnxStrided(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Conv(1, 8, (3, 3), strides=2, padding="VALID", rngs=rngs)
        self.second = nnx.Conv(
            8, 8, (3, 3), feature_group_count=4, kernel_dilation=2, rngs=rngs
        )
        self.output = nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x):
        x = self.second(nnx.relu(self.first(x)))
        return self.output(nnx.relu(x).mean((1, 2)))


def strided(*, inputs, output) -> Model:
    """Convolutions with strides, dilation and groups, in the frameworks' own layers."""
    return Model(linen=LinenStrided, nnx=NnxStrided)


def behind_a_login(*, fails=False, batch_size=64, num_train=256, **login):
    """Data that need passwords and tell them to the log, as libraries do."""
    logging.getLogger(__name__).info("log in with %s", login)
    if fails:
        raise RuntimeError(
            f"no access to {login['endpoint']} as {list(login)}: {login}"
        )
    return linear_ae(
        num_train=num_train,
        num_validation=64,
        num_test=64,
        input_size=8,
        rank=2,
        noise=0.1,
        data_seed=0,
        batch_size=batch_size,
        mode="device",
    )


def adam_l2(*, learning_rate, weight_decay, b1, b2, eps, **unused):
    """Adam with L2 regularization: the decay goes through its moments."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.adam(learning_rate, b1, b2, eps),
    )


def adam_decoupled(*, learning_rate, weight_decay, b1, b2, eps, **unused):
    """The same arguments for a decay beside the moments."""
    return optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay)


def every_fourth(*, learning_rate):
    """optax.MultiSteps, whose sums are float32 whatever they are of."""
    return optax.MultiSteps(optax.adam(learning_rate), 4).gradient_transformation()


def at_its_own_rate(*, learning_rate):
    return optax.adam(0.001)


def rising(init_value, peak_value, warmup_steps):
    """A schedule whose peak is another than it says."""
    return optax.linear_schedule(init_value, peak_value / 2, warmup_steps)


def no_optimizer(*, learning_rate):
    optax.adam(learning_rate)  # which it forgets to return


def products(parameters, gradients, batch, scale=1.0):
    """A probe that computes what an optimizer does too, for XLA to share if it may."""
    both = jax.tree.map(lambda p, g: scale * p * g + 0.1 * p, parameters, gradients)
    return {
        "sum": sum(x.sum() for x in jax.tree.leaves(both)),
        "examples": len(batch["input"]),
    }


def counted():
    """A metric, and a probe, of an integer that float32 rounds."""
    return Metric(
        lambda outputs, batch, counted: counted.sum(),
        lambda sums: sums - sums + 2**24 + 1,
        None,
    )


def counts(gradients):
    return {
        "one": jax.numpy.int32(2**24 + 1),
        "some": jax.numpy.uint32([2**32 - 1, 0]),
        "bytes": jax.numpy.int8([-1]),
    }


KEPT = []


def keeps(gradients):
    """A probe that returns a value of an earlier trace."""
    KEPT.append(sum(x.sum() for x in jax.tree.leaves(gradients)))
    return KEPT[0]


def keeps_inner(gradients):
    """A probe that returns a value of a function that has returned."""
    kept = []
    jax.vmap(kept.append)(gradients["output"]["bias"])
    return kept[0]


def too_large(gradients):
    return 2**40


@jax.jit
def out_of_memory(x):
    return jax.numpy.cumsum(jax.numpy.zeros(2**44) + x).sum()


def takes_all_memory():
    """A transform."""
    return lambda batch, key, train: {
        k: v + (out_of_memory(v.mean()) if k == "input" else 0)
        for k, v in batch.items()
    }


def not_finite(gradients):
    return {"loss": jax.numpy.nan, "some": [float("inf"), float("nan")]}


def matrix(gradients):
    return {"kernel": jax.numpy.ones((3, 3))}


def nothing(gradients):
    pass


def words():
    return "many"


def twice():
    return {"b": {"c": 1.0}, "b/c": 2.0}


def coloured():
    return {"\x1b[31m": 1.0}


def mistaken(gradients):
    return gradients["nowhere"]


SEEN = []


def seen(predictions, predict, **given):
    """A callback that keeps what it gets."""
    batch, outputs = predictions(100)
    predicted = predict(batch["input"][:5])
    SEEN.append(given | {"predictions": (batch, outputs), "predicted": predicted})


def numbers(metrics):
    return 0.5


def outside(metrics):
    return {"../up.txt": "text"}


def wrong_inputs(predict):
    predict(np.zeros((2, 3), np.float32))


def none_of_them(predictions):
    predictions(0)


def see_through(step):
    return {"jpg": Image.new("RGBA", (1, 1))}


class _Half:
    def save(self, file, kind):
        file.write(b"half of it")
        raise OSError("encoder error")


def half_saved(step):
    return {"png": _Half()}
