"""Ports without canonical initial values: faults are named, and honest ones are not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.ported_transformer import LENGTH, VOCABULARY
from helpers.ports import CORRECT, FAULTS
from runner.core.optimizers import Optimizer
from runner.core.step import Values
from runner.frameworks import linen, nnx
from runner.parity.__main__ import main
from runner.parity.form import Form
from runner.parity.partners import pair
from runner.parity.ported import compare_port
from runner.tasks.task import Task

STEPS, SIZE = 3, 4
TOKENS = ("learned", "rotary", "tied", "lstm", "bag")
MOMENTUM = {"momentum": np.float32(0.9)}
SGD = Optimizer(
    lambda rate, numbers: optax.with_extra_args_support(optax.sgd(rate, **numbers)),
    {"momentum": 0.9},
)


def cross_entropy(logits, batch):
    found = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return found, 1.0


def squared_error(outputs, batch):
    return jnp.mean((outputs - batch["x"]) ** 2, axis=(1, 2, 3)), 1.0


def batches(name):
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        if name in TOKENS:
            x, y = rng.integers(VOCABULARY, size=(2, SIZE, LENGTH), dtype=np.int32)
        else:
            x = rng.normal(size=(SIZE, 8, 8, 1)).astype(np.float32)
            y = rng.integers(10, size=SIZE, dtype=np.int32)
        yield {"x": x, "y": y}


def form(framework, model, name, numbers=MOMENTUM):
    loss = squared_error if name == "autoencoder" else cross_entropy
    task = Task(lambda batch: batch["x"], None, loss)
    given = (next(batches(name)),) if framework is linen else ()
    pipeline = framework.pipeline(model, task, SGD, *given)
    init = jax.jit(lambda key: pipeline.init(key, 0.01, numbers))
    values = Values(jax.random.key(1), numbers, np.float32(0))
    return Form(framework.__name__.split(".")[-1], pipeline, init, task, values)


original = functools.cache(lambda name: form(linen, CORRECT[name], name))


def compared(name, port):
    given, rates = list(batches(name)), [np.float32(0.1)] * STEPS
    return compare_port(original(name), port, jax.random.key(0), given, rates, 1e-5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if i % 3 == 0 else pytest.mark.nightly)
        for i, name in enumerate(CORRECT)
    ],
)
def test_no_alarm_about_a_correct_port(name):
    found = compared(name, form(nnx, CORRECT[name], name))
    assert found.messages == []
    assert found.difference.largest.max() < 1e-5


# What the one message about a fault says.
SAID = {
    "scale": """
        nnx parts from linen at step 1 in LinenBlock_0/MultiHeadDotProductAttention_0
        (MultiHeadDotProductAttention), nnx's blocks/0/attention (NnxAttention), by its
        forward pass: linen has 0.3536 = 1/sqrt(8) times what nnx has, the result of
        blocks/0/attention/query (LinearGeneral): one of them lacks this scale""",
    "epsilon": """
        nnx parts from linen once parameters are tiny (not in these 3 steps) in
        LayerNorm_0 (LayerNorm), nnx's norms/0 (LayerNorm), by its forward pass: linen
        adds an epsilon of 1e-06, nnx 1e-05""",
    "gelu": """
        in LinenBlock_0 (LinenBlock), nnx's blocks/0 (NnxBlock), by its forward pass:
        linen applies gelu, approximate, nnx gelu, exact, to the result of
        LinenBlock_0/Dense_0 (Dense)""",
    "dropout": """
        in LinenBlock_0/Dropout_0 (Dropout), nnx's blocks/0/drop (Dropout), by its
        dropout: linen drops 0.2 of the result of
        LinenBlock_0/MultiHeadDotProductAttention_0/out (DenseGeneral), nnx drops 0.2
        of the `add` in blocks/0 (NnxBlock)""",
    "untied": """
        linen and nnx, without a partner: nnx has head/bias [11], head/kernel [16, 11].
        Untied weights: linen uses Embed_0/embedding for it too, nnx has head/kernel of
        its own""",
    "momentum": """
        in batch_stats/BatchNorm_0/mean (nnx: norms/0/mean), by its statistics: each
        step linen keeps 0.9 of the old value, nnx 0.99 (the momentum)""",
    "init": "before step 1 in Dense_1/kernel (nnx: more/kernel), by its initial values",
    "rate": """
        by its dropout: linen drops 0.25 of the `max` in LinenMlp itself, nnx drops 0.5
        of the `max` in NnxMlp itself""",
    "missing": """
        in Dropout_0 (Dropout), by its dropout: linen drops 0.25 of the `max` in
        LinenMlp itself, nnx doesn't""",
    "broadcast": "nnx drops 0.25 of the `max` in NnxMlp itself by a mask of 16",
    "stopped": "by its gradient: that of Dense_0/bias, Dense_0/kernel differs",
    "extra": "linen and nnx, without a partner: nnx has scale [16]",
}  # fmt: skip


NIGHTLY = ("rate", "broadcast", "extra")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(f, marks=pytest.mark.nightly if f in NIGHTLY else ())
        for f in FAULTS
    ],
)
def test_a_fault_is_named_with_its_layer_and_cause(fault):
    name, port = FAULTS[fault]
    found = compared(name, form(nnx, CORRECT[name]._replace(nnx=port), name))
    (message,) = found.messages
    assert not found.note or "taken for the same by last name" in found.note
    assert " ".join(SAID[fault].split()) in message


def test_another_optimizer_is_named_once_it_shows():
    other = {"momentum": np.float32(0.8)}
    (message,) = compared("mlp", form(nnx, CORRECT["mlp"], "mlp", other)).messages
    assert "nnx parts from linen at step 2 in Dense_0/" in message
    assert "by its optimizer: equal gradients change 6 of 6" in message


def test_partners_are_found_but_never_guessed():
    def arrays(**shapes):
        return {k.replace("__", "/"): np.zeros(shape) for k, shape in shapes.items()}

    def paired(ours, theirs, used=None):
        return pair(ours, theirs, lambda: used or (list(ours), list(theirs)))

    same = arrays(a__kernel=(2, 2), b__kernel=(2, 2))
    assert paired(same, same).theirs == {p: p for p in same}
    spelt = paired(
        arrays(Block_0__Dense_1__bias=(2,)), arrays(block__0__dense__1__bias=(2,))
    )
    assert spelt.theirs == {"Block_0/Dense_1/bias": "block/0/dense/1/bias"}
    query = paired(
        arrays(a__query__kernel=(2, 2), a__key__kernel=(2, 2)),
        arrays(b__key__kernel=(2, 2), b__query__kernel=(2, 2)),
    )
    assert query.theirs["a/query/kernel"] == "b/query/kernel"
    two = arrays(up__kernel=(2, 2), down__kernel=(2, 2))
    used = (list(same), list(two))
    in_order = paired(same, two, used)
    assert in_order.theirs == {"a/kernel": "up/kernel", "b/kernel": "down/kernel"}
    assert in_order.by_order == ["a/kernel", "b/kernel"] and not query.by_order
    lost = paired(same, arrays(up__kernel=(2, 2)))
    assert (lost.theirs, lost.alone) == ({}, ["a/kernel", "b/kernel"])
    assert paired(same, arrays(a__kernel=(2, 3))).alone_there == ["a/kernel"]


def command(folders, model):
    off = (f"~model.{name}" for name in ("hidden_sizes", "activation", "dropout"))
    with pytest.raises(SystemExit) as ended:
        main(
            ["--steps=2", f"model._target_=helpers.ports.{model}", *off, "mesh=single",
             f"compilation_cache={folders['xla']}", f"data.data_dir={folders['data']}"]
        )  # fmt: skip
    return ended.value.code


def test_the_command_compares_a_form_of_pure_jax_too(capsys, folders):
    assert command(folders, "three_forms") == 0
    out = capsys.readouterr().out
    for framework in ("nnx", "jax"):
        assert f"{framework} and linen: within" in out
    assert "in each of 2 steps, with the values of linen" in out


def test_a_form_of_pure_jax_reads_what_there_is(folders):
    assert "the model's jax form reads 'first', which its linen form doesn't have" in (
        command(folders, "other_names")
    )
