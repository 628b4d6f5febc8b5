"""`experiment=nanolm` is what optax' notebook nanoLM trains."""

import string

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from omegaconf import OmegaConf

from helpers.at_night import one_in
from helpers.nanolm import NanoLM, as_nanolm
from helpers.training import train_run
from runner.data.dataset import Feature
from runner.models.transformer import transformer

# As many characters as the notebook has: 65.
CHARACTERS = string.ascii_letters + "\n !$&',-.3:;?"
LENGTH, VOCABULARY, HEADS = 64, 65, 8
SMALL = {"width": 16, "layers": 2, "heads": 2, "head_width": 3}
TOKENS = np.random.default_rng(0).integers(VOCABULARY, size=(3, LENGTH + 1))


@pytest.fixture
def preset(tmp_path):
    """The overrides of `experiment=nanolm`, with text of as many characters."""
    drawn = np.random.default_rng(0).choice(list(CHARACTERS), 2000)
    text = "".join(drawn) + CHARACTERS
    for name in ("train", "validation"):
        (tmp_path / name).write_text(text)
    return (
        "experiment=nanolm", f"data.path={tmp_path / 'train'}",
        f"data.validation={tmp_path / 'validation'}",
    )  # fmt: skip


@pytest.fixture
def made(composed, preset):
    """The preset's model, with other sizes if they are given."""

    def made(**sizes):
        options = OmegaConf.to_container(composed(*preset).model)
        del options["_target_"]
        tokens = Feature((LENGTH,), np.dtype("int32"), VOCABULARY)
        output, others = (LENGTH, VOCABULARY), {"dtype": "float32"} | sizes
        return transformer(inputs=tokens, output=output, **options | others)

    return made


NOTEBOOK = NanoLM(VOCABULARY, layers=6, heads=HEADS, attended=32, width=256, length=64)
SMALLER = NanoLM(VOCABULARY, layers=2, heads=2, attended=6, width=16, length=64)


def test_it_has_the_parameters_of_the_notebook(made):
    ours = jax.eval_shape(made().init, jax.random.key(0))[0]
    shaped = jax.tree.map(lambda leaf: np.zeros(leaf.shape), ours)
    theirs = jax.eval_shape(
        lambda key: NOTEBOOK.init(key, TOKENS[:, :-1], False), jax.random.key(0)
    )
    shapes = jax.tree.map(jnp.shape, theirs["params"])
    assert jax.tree.map(jnp.shape, as_nanolm(shaped, HEADS)) == shapes
    norm, attended = 2 * 256, 8 * 4
    block = (
        2 * norm
        + 3 * (256 * attended + attended)
        + (attended * 256 + 256)
        + (256 * 1024 + 1024)
        + (1024 * 256 + 256)
    )
    total = (65 + 64) * 256 + 6 * block + norm + (256 * 65 + 65)
    assert total == 3_408_513  # which the notebook prints
    assert sum(leaf.size for leaf in jax.tree.leaves(shaped)) == total


def test_its_initial_values_have_the_distributions_of_the_notebook(made):
    theirs = NOTEBOOK.init(jax.random.key(1), TOKENS[:, :-1], False)["params"]
    ours = as_nanolm(made().init(jax.random.key(0))[0], HEADS)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.mean(mine) == pytest.approx(float(np.mean(other)), abs=0.01)
        assert np.std(mine) == pytest.approx(float(np.std(other)), rel=0.05)
        # Kernels are cut off at two standard deviations, embeddings aren't.
        assert np.abs(mine).max() == pytest.approx(float(np.abs(other).max()), rel=0.25)


def applied(model, framework):
    """The function of parameters that gives the logits in training."""
    tokens, key = TOKENS[:, :-1], jax.random.key(0)

    def of_nnx(params):
        module = model.nnx(nnx.Rngs(0))
        nnx.update(module, params)
        module.train()
        return module(tokens)

    return {
        "jax": lambda params: model.jax(params, {}, tokens, key, True)[0],
        "linen": lambda params: model.linen().apply(
            {"params": params}, tokens, True, rngs={"dropout": key}
        ),
        "nnx": of_nnx,
    }[framework]


def loss(logits):
    labels = TOKENS[:, 1:]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@pytest.mark.parametrize("framework", ["jax", "linen", "nnx"])
def test_it_is_the_function_of_the_notebook(framework, made, monkeypatch):
    """With the same masks of dropout too, which are drawn by shape alone here."""

    def drawn(key, p, shape, **_):
        return jnp.asarray(np.random.default_rng(0).random(shape) < p)

    monkeypatch.setattr(jax.random, "bernoulli", drawn)
    model = made(**SMALL)
    # Biases are 0 at first, and wouldn't count.
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape),
        model.init(jax.random.key(0))[0],
    )
    ours = applied(model, framework)

    def theirs(params, training=True):
        given = {"params": as_nanolm(params, SMALL["heads"])}
        rngs = {"dropout": jax.random.key(0)}
        return SMALLER.apply(given, TOKENS[:, :-1], training, rngs=rngs)

    np.testing.assert_allclose(ours(params), theirs(params), rtol=1e-4, atol=1e-5)
    assert np.abs(theirs(params) - theirs(params, training=False)).max() > 0.1
    found, mine = jax.value_and_grad(lambda params: loss(ours(params)))(params)
    wanted, other = jax.value_and_grad(lambda params: loss(theirs(params)))(params)
    assert found == pytest.approx(float(wanted), rel=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), mine, other
    )
    evaluated = model.jax(params, {}, TOKENS[:, :-1], jax.random.key(0), False)[0]
    wanted = theirs(params, training=False)
    np.testing.assert_allclose(evaluated, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("framework", one_in(3, ["nnx", "linen", "jax"]))
def test_its_first_loss_is_that_of_the_notebook_and_it_falls(
    framework, built, made, preset
):
    run = built(
        *preset, "data.batch_size=3", *(f"model.{k}={v}" for k, v in SMALL.items()),
        "model.attention_dropout=0", "model.activation_dropout=0", "train.steps=20",
        "train.log_every_steps=1", "train.eval_every_steps=20",
        f"framework={framework}", "seed=3",
    )  # fmt: skip
    rows = []
    train_run(run, rows.append)
    losses = [row["train/loss"] for row in rows]
    windows = run.spec.dataset.train.rows(run.order.indices(0, 1)[0])["text"]
    params = made(**SMALL).init(run.init_key)[0]
    logits = SMALLER.apply(
        {"params": as_nanolm(params, SMALL["heads"])}, windows[:, :-1], False
    )
    wanted = optax.softmax_cross_entropy_with_integer_labels(
        logits, windows[:, 1:].astype(np.int32)
    ).mean()
    assert losses[0] == pytest.approx(float(wanted), rel=1e-5)
    assert losses[-1] < losses[0]
