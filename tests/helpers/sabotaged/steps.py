"""Optimizer steps that are wrong on some inputs only: a precision, a time, a loss."""

import jax
import jax.numpy as jnp
import optax

from helpers.sabotaged.base import sabotage
from runner.core.optimizer_spec import extra_arguments
from runner.core.pipeline import TrainState


def _sgd_when(condition):
    """SGD instead of the optimizer where `condition(params, loss, eval_loss)`."""

    @sabotage
    def pipeline(honest):
        def apply_gradients(state, grads, loss, rate, h, loss_fn, eval_loss):
            after = honest.apply_gradients(
                state, grads, loss, rate, h, loss_fn, eval_loss
            )
            wrong = condition(state.params, loss, eval_loss)
            return after._replace(
                params=jax.tree.map(
                    lambda new, p, g: jnp.where(wrong, p - rate * g, new),
                    after.params, state.params, grads,
                )
            )  # fmt: skip

        return {"apply_gradients": apply_gradients}

    return pipeline


def _is_float32(params, loss, eval_loss):
    return all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


sgd_in_float32 = _sgd_when(_is_float32)
sgd_without_news = _sgd_when(lambda params, loss, news: jnp.isinf(news))
sgd_after_news = _sgd_when(lambda params, loss, news: jnp.isfinite(news))
sgd_below_zero = _sgd_when(lambda params, loss, news: loss < 0)
sgd_at_nan = _sgd_when(lambda params, loss, news: jnp.isnan(loss))


def _counting(change):
    """A state of its own, with a count: `change(count, before, after, rate, grads)`."""

    @sabotage
    def pipeline(honest):
        def init(key, rate, h):
            state = honest.init(key, rate, h)
            return state._replace(
                opt_state={"own": state.opt_state, "count": jnp.zeros((), jnp.int32)}
            )

        def apply_gradients(state, grads, loss, rate, h, loss_fn, eval_loss):
            count = state.opt_state["count"]
            before = state._replace(opt_state=state.opt_state["own"])
            rest = loss, rate, h, loss_fn, eval_loss
            after = honest.apply_gradients(before, grads, *rest)
            after = change(count, before, after, rate, grads)
            return after._replace(
                opt_state={"own": after.opt_state, "count": count + 1}
            )

        return {"init": init, "apply_gradients": apply_gradients}

    return pipeline


def _where(wrong, this, that):
    return jax.tree.map(lambda a, b: jnp.where(wrong, a, b), this, that)


def _sgd_from(step):
    def change(count, before, after, rate, grads):
        sgd = jax.tree.map(lambda p, g: p - rate * g, before.params, grads)
        return after._replace(params=_where(count >= step, sgd, after.params))

    return _counting(change)


sgd_from_step_9 = _sgd_from(9)
sgd_from_step_300 = _sgd_from(300)


@_counting
def resets_its_state(count, before, after, rate, grads):
    fresh = jax.tree.map(jnp.zeros_like, after.opt_state)
    now = count % 100 == 99
    return after._replace(opt_state=_where(now, fresh, after.opt_state))


@_counting
def skips_every_tenth_step(count, before, after, rate, grads):
    return _where(count % 10 == 9, before, after)


@_counting
def warms_up(count, before, after, rate, grads):
    share = jnp.minimum(1, (count + 1) / 100)
    params = jax.tree.map(
        lambda old, new: old + share.astype(new.dtype) * (new - old),
        before.params,
        after.params,
    )
    return after._replace(params=params)


@_counting
def its_own_state(count, before, after, rate, grads):
    """Honest, but for the structure of its state."""
    return after


def _with(change):
    """`change` of the arguments (grads, loss, rate, eval_loss) of each step."""

    @sabotage
    def pipeline(honest):
        def apply_gradients(state, grads, loss, rate, h, loss_fn, eval_loss):
            grads, loss, rate, eval_loss = change(grads, loss, rate, eval_loss)
            return honest.apply_gradients(
                state, grads, loss, rate, h, loss_fn, eval_loss
            )

        return {"apply_gradients": apply_gradients}

    return pipeline


@_with
def feeds_a_constant(grads, loss, rate, eval_loss):
    return grads, jnp.full_like(loss, 2.0), rate, eval_loss


@_with
def at_most_2(grads, loss, rate, eval_loss):
    return grads, loss, jnp.minimum(rate, 2), eval_loss


@_with
def at_least_a_thousandth(grads, loss, rate, eval_loss):
    return grads, loss, jnp.maximum(rate, 1e-3), eval_loss


@_with
def leaves_nan_out(grads, loss, rate, eval_loss):
    return jax.tree.map(jnp.nan_to_num, grads), loss, rate, eval_loss


@_with
def ignores_small_gradients(grads, loss, rate, eval_loss):
    kept = optax.tree.norm(grads) > 1e-2
    return jax.tree.map(lambda g: g * kept, grads), loss, rate, eval_loss


@_with
def clips_large_gradients(grads, loss, rate, eval_loss):
    clipped, _ = optax.clip_by_global_norm(100.0).update(grads, optax.EmptyState())
    return clipped, loss, rate, eval_loss


@sabotage
def skips_large_losses(honest):
    def apply_gradients(state, grads, loss, *rest):
        return _where(
            loss > 2.05, state, honest.apply_gradients(state, grads, loss, *rest)
        )

    return {"apply_gradients": apply_gradients}


def _decayed(honest, decay):
    def apply_gradients(state, grads, loss, rate, *rest):
        after = honest.apply_gradients(state, grads, loss, rate, *rest)
        params = jax.tree.map(
            lambda new, old: new - rate * decay * old, after.params, state.params
        )
        return after._replace(params=params)

    return {"apply_gradients": apply_gradients}


@sabotage
def decays_in_secret(honest):
    return _decayed(honest, 1e-4)


@sabotage
def decays_by_a_millionth(honest):
    return _decayed(honest, 1e-6)


@sabotage
def keeps_bfloat16(honest):
    def apply_gradients(state, *rest):
        after = honest.apply_gradients(state, *rest)
        rounded = jax.tree.map(
            lambda p: p.astype(jnp.bfloat16).astype(p.dtype), after.params
        )
        return after._replace(params=rounded)

    return {"apply_gradients": apply_gradients}


@sabotage
def plateau_of_optax(honest, optimizer):
    """Below zero, optax's own rule takes any loss for an improvement (optax #1767)."""

    def transformation(rate, h):
        rule = optax.contrib.reduce_on_plateau(0.5, patience=3, rtol=1e-4)
        return optax.chain(optax.adam(rate, **h), rule)

    def init(key, rate, h):
        state = honest.init(key, rate, h)
        return state._replace(opt_state=transformation(rate, h).init(state.params))

    def apply_gradients(state, grads, loss, rate, h, loss_fn, eval_loss):
        extra = extra_arguments(grads, loss, loss_fn, eval_loss)
        updates, opt_state = transformation(rate, h).update(
            grads, state.opt_state, state.params, **extra
        )
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, state.model_state, opt_state)

    return {"init": init, "apply_gradients": apply_gradients}


SGD = r"match optax\.sgd\(0\.001\), not optax\.adam\(0\.001\)"
PLATEAU = ["schedule=reduce_on_plateau", "schedule.unit=steps"]

# Pipeline, overrides, and what the refusal must say.
CASES = [
    ("sgd_in_float32", [], rf"At step 1 of 512 it .*The observed updates {SGD}"),
    ("sgd_in_float32", ["+framework.base=linen"], rf"At step 1 of 512 .*{SGD}"),
    ("sgd_in_float32", ["+framework.base=nnx"], rf"At step 1 of 512 .*{SGD}"),
    (
        "sgd_from_step_9",
        [],
        rf"At step 10 of 12 .*From step 10 on, the observed .*{SGD}",
    ),
    ("sgd_from_step_300", [], rf"At step 301 of 512 .*From step 301 on, .*{SGD}"),
    ("sgd_from_step_300", ["+framework.base=nnx"], rf"From step 301 on, .*{SGD}"),
    (
        "resets_its_state",
        [],
        r"At step 101 of 512 .*optax\.adam\(0\.001\) with its state reset at this step",
    ),
    (
        "resets_its_state",
        ["+framework.base=linen", "optimizer=sgd", "optimizer.momentum=0.9"],
        r"with its state reset at this step",
    ),
    ("skips_every_tenth_step", [], r"by 0 instead .*don't change at all at this step"),
    ("skips_every_tenth_step", ["+framework.base=nnx"], r"don't change at all at this"),
    ("sgd_without_news", [], rf"At step 2 of 12 .*{SGD}"),
    ("sgd_after_news", [], r"At step 1 of 12 in float64"),
    ("sgd_below_zero", [], rf"At \d+ of 512 steps the observed updates {SGD}"),
    ("sgd_at_nan", [], rf"At step 505 of 512 .*From step 505 on, .*{SGD}"),
    ("leaves_nan_out", [], r"At step 509 of 512 .* instead of nan"),
    ("skips_large_losses", [], r"by 0 instead of"),
    ("skips_large_losses", ["+framework.base=linen"], r"by 0 instead of"),
    ("feeds_a_constant", PLATEAU, r"At step \d+ of \d+"),
    ("plateau_of_optax", PLATEAU, r"At step \d+ of 512"),
    ("ignores_small_gradients", ["optimizer=sgd"], r"by 0 instead of"),
    ("clips_large_gradients", ["optimizer=sgd"], r"At step 12 of 12 in float64"),
    ("at_most_2", ["optimizer.learning_rate=10"], r"match optax\.adam\(2\), not"),
    (
        "at_least_a_thousandth",
        ["schedule=cosine"],
        r"adam\(0\.001\) at a constant learning rate, not \S+ with its schedule",
    ),
    ("warms_up", [], r"At step 1 of 12 in float64"),
    ("decays_in_secret", ["optimizer=sgd"], r"At step 1 of 12 in float64"),
    ("decays_by_a_millionth", [], r"match neither optax\.adam\(0\.001\) nor any"),
    ("keeps_bfloat16", ["optimizer=sgd"], r"At step 1 of 12 in float64"),
]
