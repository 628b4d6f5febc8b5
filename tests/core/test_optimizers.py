"""Every optimizer YAML: what it builds, that it trains, and what it compiles."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from helpers.shipped import BY_KIND, NAMES
from helpers.training import SESSION, train_run
from runner.config.conf import conf_dir
from runner.config.instantiate import targets
from runner.config.optimizer_groups import groups
from runner.core import groups as grouping
from runner.core.optimizer_spec import OptimizerSpec, extra_arguments
from runner.core.optimizers import optimizer
from runner.errors import ConfigError

# Of optax's functions with a learning rate, those without a YAML. CHANGELOG says why.
LEFT_OUT = {
    "dpsgd",  # needs the gradients of single examples
    "optimistic_adam",  # deprecated by optax; optimistic_adam_v2 is there
    "schedule_free",  # wraps another optimizer; schedule_free_{sgd,adamw} are there
}
# Arguments that are functions, deprecated, or fixed by the optimizer's name.
UNWRITTEN = {
    "adafactor": {"dtype_momentum"},
    "adopt": {"clip_value_fn"},
    "galore": {"weight_dimension_numbers"},
    "muon": {"muon_weight_dimension_numbers"},
    "nadam": {"nesterov"},
    "nadamw": {"nesterov"},
    "noisy_sgd": {"seed"},
    "sophia": {"verbose", "print_win_rate_every_n_steps"},
}


def node(name):
    return OmegaConf.to_container(OmegaConf.load(conf_dir() / f"optimizer/{name}.yaml"))


def asked(name):
    """What its YAML asks for."""
    section = node(name)
    made = targets(OmegaConf.create({"optimizer": section}), "optimizer")
    parts = made["optimizer"], lambda step: 0.0, 8, None, False
    return OptimizerSpec(*parts, groups=groups(section, made))


def plainly(name, rate):
    """The same by Hydra and optax alone, with a constant rate."""
    section = node(name)
    rates = section["learning_rate"], section.pop("learning_rate")
    made = instantiate(section | {"groups": None}, _partial_=True, _convert_="all")
    del made.keywords["groups"]
    if not (given := section.pop("groups", {})):
        return optax.chain(made(learning_rate=rate))
    (group,) = given
    own = {k: v for k, v in given[group].items() if k not in ("pattern", "ndim")}
    own["learning_rate"] *= rate / rates[0]
    every = {group: instantiate(own, _convert_="all"), "": made(learning_rate=rate)}
    return optax.chain(optax.multi_transform(every, {"kernel": group, "bias": ""}))


def with_learning_rate(module):
    for name in dir(module):
        function = getattr(module, name)
        if callable(function) and not name.startswith(("_", "scale_by")):
            try:
                parameters = inspect.signature(function).parameters
            except (TypeError, ValueError):
                continue
            if "learning_rate" in parameters and not inspect.isclass(function):
                yield name


@pytest.mark.smoke
def test_every_optimizer_of_optax_has_a_yaml():
    public = {*with_learning_rate(optax), *with_learning_rate(optax.contrib)}
    assert public - set(NAMES) == LEFT_OUT


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_written_out(name):
    written = node(name)
    signature = inspect.signature(get_object(written.pop("_target_")))
    named = {k for k, p in signature.parameters.items() if p.kind != p.VAR_KEYWORD}
    assert named - UNWRITTEN.get(name, set()) <= set(written)


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_names_its_paper(name):
    text = (conf_dir() / f"optimizer/{name}.yaml").read_text()
    assert text.startswith("# ") and ("http" in text or name == "lbfgs")


@pytest.mark.parametrize("name", BY_KIND)
def test_is_verified_and_lowers_the_loss_without_recompiling(name, built, caplog):
    run = built(
        f"optimizer={name}", "framework=jax", "model.hidden_sizes=[16]",
        "train.steps=80", "train.epochs=null", "train.eval_every_steps=40",
        "verify=true",
    )  # fmt: skip
    rows = []
    SESSION.program(run.spec, run.values, run.timetable).longest.result()
    with jax.log_compiles():
        train_run(run, rows.append)
    compiled = [r.message for r in caplog.records if "Finished XLA" in r.message]
    # Compiled ahead; what is left are copies to the device and the like.
    assert not [m for m in compiled if "call" in m or "step" in m]
    losses = [row["validation/loss"] for row in rows if "validation/loss" in row]
    assert losses[-1] < 2.3 < np.log(10) + 0.01  # log(10) is that of a guess
    assert all(np.isfinite(row["train/loss"]) for row in rows)


@pytest.mark.parametrize("name", BY_KIND)
def test_equals_optax_used_the_textbook_way(name):
    """Float arguments as arguments of a compiled step change nothing but rounding."""
    spec = asked(name)
    first = spec.factory.keywords["learning_rate"]
    rates = np.linspace(first, 0, 8, dtype=np.float32)
    ours = optimizer(spec)
    params = {"kernel": jnp.linspace(-1, 1, 6).reshape(2, 3), "bias": jnp.ones(3)}

    def loss_fn(p):
        return jnp.sum(jnp.tanh(p["kernel"]) ** 2) + jnp.sum(jnp.cos(p["bias"]))

    @jax.jit
    def our_step(params, state, rate, hyperparameters):
        tx = ours.transformation(rate, hyperparameters)
        loss, grads = jax.value_and_grad(loss_fn)(params)
        extra = extra_arguments(grads, loss, loss_fn, jnp.inf)
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    our_params, textbook = params, params
    state = ours.transformation(rates[0], ours.hyperparameters).init(params)
    for rate in rates:
        our_params, state = our_step(our_params, state, rate, ours.hyperparameters)
    their_state = None
    for rate in rates:
        tx = plainly(name, float(rate))
        their_state = tx.init(textbook) if their_state is None else their_state
        loss, grads = jax.value_and_grad(loss_fn)(textbook)
        extra = extra_arguments(grads, loss, loss_fn, jnp.inf)
        updates, their_state = tx.update(grads, their_state, textbook, **extra)
        textbook = optax.apply_updates(textbook, updates)
    for key in params:
        np.testing.assert_allclose(our_params[key], textbook[key], rtol=2e-4, atol=2e-6)


def test_which_float_arguments_are_part_of_the_program():
    """None: all are arguments of the compiled step, so a sweep shares it."""
    static = {}
    for name in NAMES:
        floats = {k for k, v in node(name).items() if isinstance(v, float)}
        ours = optimizer(asked(name))
        rest = floats - {"learning_rate"} - set(ours.hyperparameters)
        if rest:
            static[name] = rest
    assert static == {}


@pytest.mark.smoke
def test_clipping_bounds_the_update(trained):
    rows = trained(
        "optimizer=sgd", "optimizer.learning_rate=1.0", "train.clip_global_norm=0.01",
        "train.epochs=1", "train.log_every_steps=1",
    )  # fmt: skip
    assert all(row["train/grad_norm"] > 0.01 for row in rows)  # logged unclipped
    np.testing.assert_allclose(
        [row["train/update_norm"] for row in rows], 0.01, rtol=1e-3
    )


def test_masked_weight_decay_spares_biases_and_norm_scales(assembled):
    cnn = (
        "model=cnn", "model.channels=[2,2]", "model.hidden_size=4", "framework=jax",
        "optimizer=adamw", "optimizer.learning_rate=1.0", "optimizer.weight_decay=1.0",
    )  # fmt: skip
    for masked in (False, "[conv_0,dense]", True):
        run = assembled(*cnn, f"train.mask_weight_decay={masked}")
        pipeline, values = run.spec.pipeline, run.values
        state = jax.jit(pipeline.init)(run.init_key, 1.0, values.hyperparameters)
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        ones = state._replace(params=jax.tree.map(jnp.ones_like, state.params))

        @jax.jit
        def apply_gradients(state, grads, hyperparameters, pipeline=pipeline):
            return pipeline.apply_gradients(
                state, grads, 0.0, 1.0, hyperparameters, lambda p: 0.0, jnp.inf
            )

        after = apply_gradients(ones, zeros, values.hyperparameters)
        decayed = jax.tree.map(lambda p: bool(jnp.all(p == 0)), after.params)
        exempt = ("conv_0", "dense") if isinstance(masked, str) else ()
        expected = grouping.decayed(exempt)(state.params)
        if exempt:
            assert not expected["dense"]["kernel"] and expected["conv_1"]["kernel"]
        if masked is False:
            expected = jax.tree.map(lambda _: True, expected)
        assert decayed == expected
    assert expected["norm_0"] == {"scale": False, "bias": False}
    assert expected["dense"] == {"kernel": True, "bias": False}


def test_a_plateau_does_not_go_with_iterates_of_the_optimizers_own(built):
    with pytest.raises(ConfigError, match="keeps iterates of its own"):
        built("optimizer=schedule_free_sgd", "schedule=reduce_on_plateau")


def test_a_decay_that_cannot_be_masked_is_refused(built):
    with pytest.raises(ConfigError, match=r"adam_weight_decay=0\.1"):
        decay = "optimizer.adam_weight_decay=0.1"
        built("optimizer=muon", decay, "train.mask_weight_decay=true")


def test_masking_needs_weight_decay(built):
    with pytest.raises(ConfigError, match="no weight decay to mask"):
        built("optimizer=sgd", "train.mask_weight_decay=true")


def test_average_is_what_is_evaluated(trained):
    """With a decay of almost 1 the average stays at the initial parameters."""
    plain = trained("train.epochs=3")
    averaged = trained("train.epochs=3", "train.ema_decay=0.999999")
    assert averaged[-1]["train/loss"] == plain[-1]["train/loss"]
    assert averaged[-1]["validation/loss"] > 2 > plain[-1]["validation/loss"]


@pytest.mark.nightly  # each step of them is in contracts/test_accumulation.py
def test_accumulated_gradients_equal_those_of_the_whole_batch(trained):
    whole = trained("train.epochs=2", "optimizer=sgd")
    parts = trained("train.epochs=2", "optimizer=sgd", "train.gradient_accumulation=4")
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(
            list(a.values()), list(b.values()), rtol=2e-5, atol=1e-6
        )
