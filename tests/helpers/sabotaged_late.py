"""Pipelines that do what they are told wherever one looks before training.

Each is chosen with `framework._target_=helpers.sabotaged_late.NAME`. On a small
problem, in its first thousand steps, alone, or with another batch size they are honest:
only a witness of the real run can see what they do.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from helpers.user_targets import NOISY
from runner.frameworks import jax as plain
from runner.frameworks import linen as linen_pipeline
from runner.frameworks import nnx as nnx_pipeline

LARGE, LATE = 10_000, 1000
HONEST = {
    "jax": lambda model, task, optimizer, example: plain.pipeline(
        model, task, optimizer
    ),
    "linen": linen_pipeline.pipeline,
    "nnx": lambda model, task, optimizer, example: nnx_pipeline.pipeline(
        model, task, optimizer
    ),
}


def is_large(params) -> bool:
    return sum(leaf.size for leaf in jax.tree.leaves(params)) > LARGE


def scaled(tree, factor):
    return jax.tree.map(lambda x: x * factor, tree)


def counts(opt_state):
    """The number of steps that the optimizer has done."""
    leaves = jax.tree.leaves(opt_state)
    return next(x for x in leaves if jnp.issubdtype(x.dtype, jnp.integer))


# Each takes the honest pipeline and returns one of its functions, changed.


def large_halves_gradients(honest):
    def gradients(state, batch, key):
        found, grads, model_state = honest.gradients(state, batch, key)
        factor = 0.5 if is_large(state.params) else 1.0
        return found, scaled(grads, factor), model_state

    return {"gradients": gradients}


def large_decays(honest):
    """An L2 term that nobody asked for."""

    def gradients(state, batch, key):
        found, grads, model_state = honest.gradients(state, batch, key)
        if is_large(state.params):
            grads = jax.tree.map(lambda g, p: g + 0.01 * p, grads, state.params)
        return found, grads, model_state

    return {"gradients": gradients}


def large_float32_is_sgd(honest):
    """flax #4087, where the parameters are many and not those of a check."""

    def apply_gradients(state, grads, loss, rate, *rest):
        after = honest.apply_gradients(state, grads, loss, rate, *rest)
        leaf = jax.tree.leaves(state.params)[0]
        if is_large(state.params) and leaf.dtype == jnp.float32:
            params = jax.tree.map(lambda p, g: p - rate * g, state.params, grads)
            after = after._replace(params=params)
        return after

    return {"apply_gradients": apply_gradients}


def large_lies_about_loss(honest):
    def gradients(state, batch, key):
        found, *rest = honest.gradients(state, batch, key)
        if is_large(state.params):
            found = found._replace(loss=0.9 * found.loss)
        return found, *rest

    return {"gradients": gradients}


def large_lies_about_accuracy(honest):
    def gradients(state, batch, key):
        found, *rest = honest.gradients(state, batch, key)
        if is_large(state.params):
            count = found.metrics["accuracy"]["count"]
            perfect = {"sum": count.astype(jnp.float32), "count": count}
            found = found._replace(metrics={"accuracy": perfect})
        return found, *rest

    return {"gradients": gradients}


def large_repeats_dropout(honest):
    """One key for all steps."""

    def gradients(state, batch, key):
        key = jax.random.key(0) if is_large(state.params) else key
        return honest.gradients(state, batch, key)

    return {"gradients": gradients}


def large_has_temperature(honest):
    def predict(state, inputs):
        factor = 1.3 if is_large(state.params) else 1.0
        return factor * honest.predict(state, inputs)

    return {"predict": predict}


def large_centers_outputs(honest):
    """Statistics of the batch in evaluation."""

    def predict(state, inputs):
        outputs = honest.predict(state, inputs)
        if is_large(state.params):
            outputs = outputs - 0.5 * outputs.mean(0, keepdims=True)
        return outputs

    return {"predict": predict}


def large_starts_scaled(honest):
    def init(key, *rest):
        state = honest.init(key, *rest)
        factor = 1.2 if is_large(state.params) else 1.0
        return state._replace(params=scaled(state.params, factor))

    return {"init": init}


def large_has_one_seed(honest):
    def init(key, *rest):
        state = honest.init(key, *rest)
        return (
            honest.init(jax.random.key(7), *rest) if is_large(state.params) else state
        )

    return {"init": init}


def digits_have_one_seed(honest):
    """Whatever it is given, for a layer from 64 pixels to 10 classes."""

    def init(key, *rest):
        state, one = honest.init(key, *rest), honest.init(jax.random.key(7), *rest)
        shapes = {leaf.shape for leaf in jax.tree.leaves(state.params)}
        return one if (64, 10) in shapes else state

    return {"init": init}


def late_stops(honest):
    """From step 1001 on, by adam's own count."""

    def apply_gradients(state, grads, *rest):
        after = honest.apply_gradients(state, grads, *rest)
        late = counts(state.opt_state) >= LATE
        kept = jax.tree.map(partial(jnp.where, late), state.params, after.params)
        return after._replace(params=kept)

    return {"apply_gradients": apply_gradients}


def late_in_a_wrapper(honest):
    """A counter beside the optimizer's state: from step 1001 on, gradients double."""

    def init(*arguments):
        state = honest.init(*arguments)
        return state._replace(opt_state=(jnp.zeros((), jnp.int32), state.opt_state))

    def apply_gradients(state, grads, *rest):
        count, inner = state.opt_state
        grads = scaled(grads, jnp.where(count >= LATE, 0.1, 1.0).astype(jnp.float32))
        after = honest.apply_gradients(state._replace(opt_state=inner), grads, *rest)
        return after._replace(opt_state=(count + 1, after.opt_state))

    return {"init": init, "apply_gradients": apply_gradients}


def mapped_halves_gradients(honest):
    """A rule for `vmap` that does something else."""

    @custom_vmap
    def same(grads):
        return grads

    @same.def_vmap
    def half(size, is_mapped, grads):
        return scaled(grads, 0.5), is_mapped[0]

    def gradients(state, batch, key):
        found, grads, model_state = honest.gradients(state, batch, key)
        return found, same(grads), model_state

    return {"gradients": gradients}


def mapped_freezes_biases(honest):
    @custom_vmap
    def newest(old, new):
        return new

    @newest.def_vmap
    def kernels(size, is_mapped, old, new):
        kept = jax.tree.map(lambda o, n: o if o.ndim == 2 else n, old, new)
        return kept, is_mapped[1]

    def apply_gradients(state, *rest):
        after = honest.apply_gradients(state, *rest)
        return after._replace(params=newest(state.params, after.params))

    return {"apply_gradients": apply_gradients}


def drops_a_class_of_64(honest):
    """Only in batches of 64: the examples of class 3 count as class 4."""

    def gradients(state, batch, key):
        if len(batch["label"]) == 64:
            label = jnp.where(batch["label"] == 3, 4, batch["label"])
            batch = batch | {"label": label}
        return honest.gradients(state, batch, key)

    return {"gradients": gradients}


def honest_once(honest):
    """Whoever traces the gradients first sees the right ones."""
    traced = []

    def gradients(state, batch, key):
        traced.append(key)
        found, grads, model_state = honest.gradients(state, batch, key)
        return found, scaled(grads, 1.0 if len(traced) == 1 else 0.5), model_state

    return {"gradients": gradients}


def knows_a_layer(honest):
    """No gradients for the third hidden layer."""

    def gradients(state, batch, key):
        found, grads, model_state = honest.gradients(state, batch, key)
        grads = {k: scaled(v, 0.0 if "2" in k else 1.0) for k, v in grads.items()}
        return found, grads, model_state

    return {"gradients": gradients}


def bfloat16_skips(honest):
    """In bfloat16, every second step has no gradients."""

    def gradients(state, batch, key):
        found, grads, model_state = honest.gradients(state, batch, key)
        outputs = jax.eval_shape(honest.predict, state, batch["input"])
        if outputs.dtype == jnp.bfloat16 and is_large(state.params):
            grads = scaled(grads, jnp.float32(counts(state.opt_state) % 2))
        return found, grads, model_state

    return {"gradients": gradients}


def honest_in_its_own_way(honest):
    """The optimizer's state as one array, which nobody else can read."""

    def init(*arguments):
        state = honest.init(*arguments)
        return state._replace(opt_state=_packed(state.opt_state))

    def apply_gradients(state, grads, loss, rate, hyperparameters, *rest):
        wanted = jax.eval_shape(
            honest.init, jax.random.key(0), rate, hyperparameters
        ).opt_state
        before = state._replace(opt_state=_unpacked(state.opt_state, wanted))
        after = honest.apply_gradients(
            before, grads, loss, rate, hyperparameters, *rest
        )
        return after._replace(opt_state=_packed(after.opt_state))

    return {"init": init, "apply_gradients": apply_gradients}


def large_sgd_in_its_own_way(honest):
    """flax #4087 again, beside a state that nobody else can read."""
    own = honest_in_its_own_way(honest)

    def apply_gradients(state, grads, loss, rate, *rest):
        after = own["apply_gradients"](state, grads, loss, rate, *rest)
        if is_large(state.params):
            params = jax.tree.map(lambda p, g: p - rate * g, state.params, grads)
            after = after._replace(params=params)
        return after

    return own | {"apply_gradients": apply_gradients}


def exchanges_updates(honest):
    """Between two layers of one shape, which the model of a check doesn't have."""

    def apply_gradients(state, *rest):
        after = honest.apply_gradients(state, *rest)
        old, structure = jax.tree.flatten(state.params)
        new, last = jax.tree.leaves(after.params), {}
        moved = list(new)
        for i, leaf in enumerate(new):
            if leaf.shape in last:
                j = last[leaf.shape]
                moved[i], moved[j] = old[i] + new[j] - old[j], old[j] + leaf - old[i]
            last[leaf.shape] = i
        return after._replace(params=jax.tree.unflatten(structure, moved))

    return {"apply_gradients": apply_gradients}


def _packed(tree):
    return jnp.concatenate([x.astype(float).ravel() for x in jax.tree.leaves(tree)])


def _unpacked(flat, wanted):
    leaves, structure = jax.tree.flatten(wanted)
    parts = jnp.split(flat, list(itertools.accumulate(x.size for x in leaves))[:-1])
    return jax.tree.unflatten(
        structure,
        [
            p.reshape(x.shape).astype(x.dtype)
            for p, x in zip(parts, leaves, strict=True)
        ],
    )


def _pipeline(change, framework):
    def pipeline(model, task, optimizer, example):
        honest = HONEST[framework](model, task, optimizer, example)
        return honest._replace(**change(honest))

    return pipeline


def __getattr__(name):
    """`NAME_FRAMEWORK`: a pipeline of a framework with one of the changes above."""
    change, _, framework = name.rpartition("_")
    if framework not in HONEST or change not in globals():
        raise AttributeError(name)
    return _pipeline(globals()[change], framework)


_WIDE = ("train.steps=44",)  # the default MLP has 17,000 parameters
_LONG = ("train.steps=1100", "model.hidden_sizes=[8]", "train.eval_every_steps=100")
_DROPOUT = (*_WIDE, "model.dropout=0.3")
_PACKED = ("train.steps=22", "model.hidden_sizes=[8]")
_THREE = "model.hidden_sizes=[8,8,8]"
_NOISY = (*NOISY, "train.steps=22")
_GRADIENT, _MOVED = r"At step \d+ train/grad_norm was", r"After step \d+ \S*params/"

# Pipeline, overrides, what the refusal must say, and how many train side by side.
CASES = [
    ("large_halves_gradients_jax", _WIDE, _GRADIENT, 1),
    ("large_decays_linen", _WIDE, _GRADIENT, 1),
    ("large_float32_is_sgd_nnx", _WIDE, r"At step 1 train/update_norm", 1),
    ("large_lies_about_loss_jax", _WIDE, r"At step 1 train/loss was", 1),
    ("large_lies_about_accuracy_nnx", _WIDE, r"train/accuracy was", 1),
    ("large_repeats_dropout_linen", _DROPOUT, r"At step \d+ train/\S+ was", 1),
    ("large_has_temperature_nnx", _WIDE, r"evaluation isn't that.*validation/loss", 1),
    ("large_centers_outputs_jax", _WIDE, r"evaluation isn't that", 1),
    ("large_starts_scaled_linen", _WIDE, r"initial values.*the run's seed", 1),
    ("large_has_one_seed_jax", _WIDE, r"initial values.*the run's seed", 1),
    ("digits_have_one_seed_linen", _NOISY, "another seed gives the same initial", 1),
    ("late_stops_jax", _LONG, r"At step 10\d\d train/update_norm was 0 instead", 1),
    ("late_stops_nnx", _LONG, r"At step 10\d\d train/update_norm was 0 instead", 1),
    ("late_in_a_wrapper_linen", _LONG, r"At step 10\d\d train/update_norm", 1),
    ("mapped_halves_gradients_jax", _PACKED, _GRADIENT, 2),
    ("mapped_halves_gradients_nnx", _PACKED, _GRADIENT, 2),
    ("mapped_freezes_biases_linen", _PACKED, _MOVED, 2),
    ("drops_a_class_of_64_linen", _PACKED, r"At step 1 train/loss was", 1),
    ("honest_once_jax", _PACKED, _GRADIENT, 2),
    ("knows_a_layer_nnx", ("train.steps=22", _THREE), _GRADIENT, 1),
    ("large_sgd_in_its_own_way_jax", _WIDE, r"At step 1 train/update_norm", 1),
    ("exchanges_updates_linen", ("train.steps=22", _THREE), r"params/dense_\d", 1),
    ("bfloat16_skips_jax", (*_WIDE, "precision=bfloat16"), r"train/grad_norm was 0", 1),
]  # fmt: skip
