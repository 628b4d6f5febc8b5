"""Gradients, sums and statistics that aren't those of the task's loss."""

import jax
import jax.numpy as jnp
import optax

from helpers.sabotaged.base import sabotage, with_task
from runner.tasks.task import mean


def _after(change):
    """`change(sums, grads, model_state, state)` -> the first three, after an honest."""

    @sabotage
    def pipeline(honest):
        def gradients(state, batch, key):
            return change(*honest.gradients(state, batch, key), state)

        return {"gradients": gradients}

    return pipeline


def _before(change):
    """`change(batch, key)` -> other ones, before an honest."""

    @sabotage
    def pipeline(honest):
        def gradients(state, batch, key):
            return honest.gradients(state, *change(batch, key))

        return {"gradients": gradients}

    return pipeline


def _times(factor):
    return _after(lambda f, g, m, s: (f, optax.tree.scale(factor(f), g), m))


doubled = _times(lambda found: 2.0)
summed = _times(lambda found: found.weight)
averaged_twice = _times(lambda found: 0.25)
one_percent_more = _times(lambda found: 1.01)
larger_after_large_losses = _times(
    lambda found: jnp.where(mean(found.loss, found.weight) > 5, 1.5, 1.0)
)


@_after
def clipped(found, grads, model_state, state):
    least = jnp.minimum(1, 0.01 / optax.tree.norm(grads))
    return found, optax.tree.scale(least, grads), model_state


@_after
def with_l2_term(found, grads, model_state, state):
    return (
        found,
        optax.tree.add(grads, optax.tree.scale(0.01, state.params)),
        model_state,
    )


@_after
def without_biases(found, grads, model_state, state):
    kept = jax.tree.map(lambda g: g if g.ndim > 1 else jnp.zeros_like(g), grads)
    return found, kept, model_state


@_after
def statistics_never_updated(found, grads, model_state, state):
    return found, grads, state.model_state


@_after
def statistics_updated_twice(found, grads, model_state, state):
    twice = jax.tree.map(
        lambda new, old: new + 0.9 * (new - old), model_state, state.model_state
    )
    return found, grads, twice


@_after
def flattering_loss(found, grads, model_state, state):
    return found._replace(loss=0.9 * found.loss), grads, model_state


@_after
def flattering_accuracy(found, grads, model_state, state):
    hits = found.metrics["accuracy"] | {"sum": found.metrics["accuracy"]["count"]}
    return found._replace(metrics={"accuracy": hits}), grads, model_state


@sabotage
def flattering_some_batches(honest):
    def gradients(state, batch, key):
        found, grads, model_state = honest.gradients(state, batch, key)
        hits = found.metrics["accuracy"]
        is_lucky = jax.random.uniform(jax.random.fold_in(key, 3)) < 0.15
        lucky = jnp.where(is_lucky, hits["count"], hits["sum"])
        hits = hits | {"sum": lucky.astype(hits["sum"].dtype)}
        return found._replace(metrics={"accuracy": hits}), grads, model_state

    return {"gradients": gradients}


@with_task
def replaces_a_metric(task):
    """In place: it would be the runner's own then."""
    own = task.metrics["accuracy"]

    def update(outputs, batch, counted):
        hits = own.update(outputs, batch, counted)
        return hits | {"sum": hits["count"].astype(hits["sum"].dtype)}

    task.metrics["accuracy"] = own._replace(update=update)
    return task


@_after
def of_float16(found, grads, model_state, state):
    half = jax.tree.map(lambda g: g.astype(jnp.float16).astype(g.dtype), grads)
    return found, half, model_state


@_after
def twice_the_weight(found, grads, model_state, state):
    return (
        found._replace(loss=2 * found.loss, weight=2 * found.weight),
        grads,
        model_state,
    )


@_before
def one_dropout_key(batch, key):
    return batch, jax.random.key(0)


@_before
def shuffled_labels(batch, key):
    return batch | {"label": jnp.roll(batch["label"], 1)}, key


@_before
def half_the_batch(batch, key):
    return {k: jnp.concatenate([v[::2], v[::2]]) for k, v in batch.items()}, key


@sabotage
def in_bfloat16(honest):
    def gradients(state, batch, key):
        rounded = jax.tree.map(
            lambda p: p.astype(jnp.bfloat16).astype(p.dtype), state.params
        )
        return honest.gradients(state._replace(params=rounded), batch, key)

    return {"gradients": gradients}


@sabotage
def in_evaluation_mode(honest, model, task):
    """jax: the model's dropout and statistics are left off in training."""

    def gradients(state, batch, key):
        def loss(params):
            outputs, _ = model.jax(
                params, state.model_state, task.inputs(batch), key, train=False
            )
            values, _ = task.loss(outputs, batch)
            return values.mean()

        found, _, model_state = honest.gradients(state, batch, key)
        return found, jax.grad(loss)(state.params), model_state

    return {"gradients": gradients}


@with_task
def drops_a_class(task):
    def loss(outputs, batch):
        values, weights = task.loss(outputs, batch)
        return values, weights * (batch["label"] != 3)

    return task._replace(loss=loss)


@with_task
def ignores_weights(task):
    return task._replace(loss=lambda o, b: (task.loss(o, b)[0], 1.0))


@with_task
def smooths_labels(task):
    def loss(outputs, batch):
        values, weights = task.loss(outputs, batch)
        uniform = -jax.nn.log_softmax(outputs).mean(axis=-1)
        return 0.9 * values + 0.1 * uniform, weights

    return task._replace(loss=loss)


LINEN, NNX = ["+framework.base=linen"], ["+framework.base=nnx"]
AUTOENCODER = ["data=linear_ae", "model=linear_autoencoder", "task=reconstruction"]
TIMES = r"the gradient .*; all of it is {} times what it should be"

# Pipeline, overrides, and what the refusal must say.
CASES = [
    ("doubled", [], TIMES.format("2")),
    ("doubled", LINEN, TIMES.format("2")),
    ("doubled", NNX, TIMES.format("2")),
    ("doubled", AUTOENCODER, TIMES.format("2")),
    ("summed", [], TIMES.format("8")),
    ("summed", [*NNX, "precision.compute=bfloat16"], TIMES.format("8")),
    ("averaged_twice", [], TIMES.format("0.25")),
    ("one_percent_more", [], TIMES.format(r"1\.01")),
    ("larger_after_large_losses", [], TIMES.format(r"1\.5")),
    ("clipped", [], r"gradient .* times what it should be"),
    ("clipped", NNX, r"gradient .* times what it should be"),
    ("with_l2_term", [], r"the right ones plus 0\.01 times the parameters"),
    ("with_l2_term", LINEN, r"the right ones plus 0\.01 times the parameters"),
    ("without_biases", [], r"the gradient output/bias\[\d+\] is 0 instead"),
    (
        "statistics_never_updated",
        [],
        r"the model state norm/mean\[\d\] is .*; it never changes",
    ),
    ("statistics_never_updated", LINEN, r"the model state norm/(mean|var)\[\d\] is"),
    ("statistics_never_updated", NNX, r"the model state norm/(mean|var)\[\d\] is"),
    ("statistics_updated_twice", [], r"the model state norm/(mean|var)\[\d\] is"),
    ("flattering_loss", [], r"the loss is .*; all of it is 0\.9 times"),
    ("flattering_loss", NNX, r"the loss is .*; all of it is 0\.9 times"),
    ("flattering_accuracy", [], r"other metrics .* accuracy/sum is 8"),
    ("flattering_some_batches", [], r"other metrics .* accuracy/sum is 8"),
    ("replaces_a_metric", LINEN, r"other metrics .* accuracy/sum is 8"),
    ("of_float16", NNX, r"aren't those of the task's loss.* the gradient"),
    ("twice_the_weight", [], r"the (weight|loss) is"),
    ("one_dropout_key", [], r"the loss is \S+ instead of"),
    ("one_dropout_key", LINEN, r"(gradient|loss) .*is \S+ instead of"),
    ("one_dropout_key", NNX, r"(gradient|loss) .*is \S+ instead of"),
    ("shuffled_labels", [], r"aren't those of the task's loss|other metrics"),
    ("half_the_batch", [], r"aren't those of the task's loss|other metrics"),
    ("in_bfloat16", [], r"aren't those of the task's loss"),
    ("in_evaluation_mode", [], r"the gradient"),
    ("drops_a_class", [], r"the (weight|loss) is|other metrics"),
    ("drops_a_class", LINEN, r"the (weight|loss) is|other metrics"),
    (
        "ignores_weights",
        ["task.class_weights=[1,2,1,1,1,1,1,1,1,3]"],
        r"the (weight|loss) is",
    ),
    ("smooths_labels", [], r"the loss is"),
]
