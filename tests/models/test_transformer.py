"""A transformer is the same function in three frameworks, and what it should be."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers.user_targets import TOKENS
from runner.data.dataset import Feature
from runner.errors import ConfigError
from runner.models.transformer import transformer

LENGTH, VOCABULARY = 8, 11
GIVEN = np.random.default_rng(0).integers(VOCABULARY, size=(3, LENGTH), dtype=np.int32)


def made(outputs=VOCABULARY, **more):
    options = dict(
        width=16, heads=4, head_width=None, layers=2, activation="gelu",
        positions="learned", tied=True, bias=True, key_bias=False, output_bias=False,
        norm_epsilon=1e-5, initial_values="gpt2", dropout=0.0, attention_dropout=0.0,
        activation_dropout=0.0, remat=False, dtype="float32",
    )  # fmt: skip
    tokens = Feature((LENGTH,), np.dtype("int32"), VOCABULARY)
    output = LENGTH, outputs
    return transformer(inputs=tokens, output=output, **options | more)


def logits(model, params, tokens=GIVEN):
    return model.jax(params, {}, tokens, jax.random.key(0), False)[0]


@pytest.fixture
def params():
    return lambda model: model.init(jax.random.key(0))[0]


OPTIONS = list(
    itertools.product(
        ["learned", "rotary"], [True, False], [True, False], ["float32", "bfloat16"]
    )
)
# Each pair of two options' values is tested always.
PAIRWISE = [OPTIONS[i] for i in (0b0000, 0b0111, 0b1011, 0b1101, 0b1110)]


@pytest.mark.parametrize(
    "positions,tied,bias,dtype",
    [
        pytest.param(*each, marks=[] if each in PAIRWISE else pytest.mark.nightly)
        for each in OPTIONS
    ],
)
def test_three_forms_are_one_function(positions, tied, bias, dtype, params):
    model = made(positions=positions, tied=tied, bias=bias, dtype=dtype, remat=not bias)
    check_forms(model, params(model), dtype)


# Dropout of attention's weights has a path of its own, in evaluation too.
@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_three_forms_are_one_function_with_options_of_other_papers(
    positions, dtype, params
):
    model = made(
        positions=positions, dtype=dtype, tied=False, head_width=6, key_bias=True,
        output_bias=True, norm_epsilon=1e-2, initial_values="flax",
        attention_dropout=0.2, activation_dropout=0.2,
    )  # fmt: skip
    values = params(model)
    assert values["block_0"]["query"]["kernel"].shape == (16, 24)
    check_forms(model, jax.tree.map(lambda leaf: leaf + 0.1, values), dtype)


def check_forms(model, values, dtype):
    wanted = logits(model, values)
    assert wanted.dtype == dtype
    module = model.nnx(nnx.Rngs(0))
    nnx.update(module, values)
    module.eval()
    linen = model.linen()
    shapes = jax.eval_shape(
        lambda key: linen.init(key, GIVEN, False), jax.random.key(0)
    )
    for other in (shapes["params"], nnx.to_pure_dict(nnx.state(module, nnx.Param))):
        assert jax.tree.map(jnp.shape, other) == jax.tree.map(jnp.shape, values)
    for found in (linen.apply({"params": values}, GIVEN, False), module(GIVEN)):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_token_counts_for_what_follows_and_by_its_position(positions, params):
    model = made(positions=positions)
    values = params(model)
    before = logits(model, values)
    changed = GIVEN.copy()
    changed[:, 4] = (changed[:, 4] + 1) % VOCABULARY
    differs = np.abs(logits(model, values, changed) - before).max(axis=(0, 2)) > 0
    assert differs.tolist() == [False] * 4 + [True] * 4
    swapped = GIVEN[:, [1, 0, *range(2, LENGTH)]]
    assert np.abs(logits(model, values, swapped) - before)[:, -1].max() > 0


def test_a_rotation_leaves_what_is_between_two_positions(params):
    """Only distances count: a pair of tokens attends alike wherever it stands."""
    model = made(positions="rotary", layers=1, tied=False)
    same = np.full((1, LENGTH), 3, np.int32)
    found = logits(model, params(model), same)
    np.testing.assert_allclose(found[:, :1].repeat(LENGTH, 1), found, rtol=1e-4)


def test_initial_values_are_those_of_gpt_2(params):
    values = params(made(width=256, layers=8, heads=4, tied=False))
    block = values["block_3"]
    for kernel, std in (
        (values["tokens"]["embedding"], 0.02),
        (values["output"]["kernel"], 0.02),
        (block["up"]["kernel"], 0.02),
        (block["out"]["kernel"], 0.02 / 4),
        (block["down"]["kernel"], 0.02 / 4),
    ):
        assert np.std(kernel) == pytest.approx(std, rel=0.05)
    assert "bias" not in block["key"] and not block["query"]["bias"].any()


def test_weights_that_may_be_dropped_are_the_same(params):
    """They are computed by hand then, else by JAX's own function."""
    values = params(made())
    own = logits(made(attention_dropout=0.5), values)
    np.testing.assert_allclose(own, logits(made(), values), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention_dropout", [0.0, 0.5])
def test_remat_changes_no_gradient(attention_dropout, params):
    def gradients(remat):
        model = made(remat=remat, attention_dropout=attention_dropout)
        return jax.grad(lambda p: logits(model, p).std())(params(model))

    jax.tree.map(np.testing.assert_array_equal, gradients(True), gradients(False))


@pytest.mark.parametrize(
    "options,message",
    [
        ({"heads": 3}, r"model\.width=16 must be a multiple of model\.heads=3"),
        ({"heads": 16, "positions": "rotary"}, r"model\.width=16 / model\.heads=16"),
        ({"head_width": 3, "positions": "rotary"}, r"head_width, which is 3, must be"),
        ({"head_width": 0}, r"model\.head_width=0 must be at least 1"),
        ({"initial_values": "gpt"}, r"gpt is none of .* Did you mean 'gpt2'"),
        ({"attention_dropout": 1}, r"model\.attention_dropout=1 must be at least 0"),
        ({"output_bias": True}, r"output_bias=true needs model\.tied=false"),
        ({"positions": "rotatory"}, r"rotatory is none of .* Did you mean 'rotary'"),
        ({"layers": 0}, r"model\.layers=0 must be at least 1"),
        ({"outputs": 12}, r"model\.tied=true needs as many .* are 12 and 11"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(ConfigError, match=message):
        made(**options)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "mesh",
    [
        ["mesh=fsdp"],
        ["mesh=tensor",
         "mesh.rules=[['(query|key|value|up)/kernel',[null,model]],"
         "['(out|down)/kernel',[model,null]]]"],
    ],
)  # fmt: skip
def test_gpt_2_trains_on_eight_devices(mesh, trained):
    rows = trained(
        *TOKENS, "data.vocabulary=50257", "model=gpt2", *mesh, "train.epochs=null",
        "train.steps=3", "train.log_every_steps=1", "train.eval_every_steps=3",
    )  # fmt: skip
    losses = [row["train/loss"] for row in rows]
    assert losses[0] == pytest.approx(np.log(50257), rel=0.02)
    assert losses[2] < losses[0]
