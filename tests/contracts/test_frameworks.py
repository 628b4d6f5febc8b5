"""The three frameworks: one seam, the same numbers."""

import itertools

import jax
import numpy as np
import pytest

from helpers.small_models import small_convnet
from helpers.user_targets import NOISY

FRAMEWORKS = ("jax", "linen", "nnx")
MODELS = ("mlp", "cnn", "linear_autoencoder", "convnet", "resnet", "quadratic")
SMALL = {
    "mlp": "model.hidden_sizes=[32]",
    "cnn": "model.channels=[4,8] model.hidden_size=16 train.convolution=native",
    "linear_autoencoder": "model.latent_size=8",
    "convnet": f"{small_convnet()} train.convolution=native",
    "resnet": "model.depth=8 model.width=4 train.convolution=native",
    "quadratic": "data=quadratic optimizer.learning_rate=0.01",
}


# Each optimizer, and each model but the deep ones; the other pairs at night.
PAIRS = {
    ("mlp", "sgd"), ("cnn", "adamw"), ("linear_autoencoder", "adam"),
    ("quadratic", "adamw"),
}  # fmt: skip


@pytest.mark.parametrize(
    "model,optimizer",
    [
        pytest.param(*pair, marks=[] if pair in PAIRS else pytest.mark.nightly)
        for pair in itertools.product(MODELS, ("sgd", "adam", "adamw"))
    ],
)
def test_losses_agree_over_200_steps(model, optimizer, trained):
    losses = {}
    for framework in FRAMEWORKS:
        rows = trained(
            f"framework={framework}", f"model={model}", *SMALL[model].split(),
            f"optimizer={optimizer}", "train.steps=200", "train.epochs=null",
            "train.log_every_steps=1", "train.eval_every_steps=100",
        )  # fmt: skip
        losses[framework] = [row["train/loss"] for row in rows]
        evaluated = [row for row in rows if "validation/loss" in row]
        losses[framework] += [row["validation/loss"] for row in evaluated]
    assert losses["jax"][-1] < losses["jax"][0]
    for framework in ("linen", "nnx"):
        np.testing.assert_allclose(losses[framework], losses["jax"], rtol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_state_has_the_same_paths_shapes_and_values(model, assembled):
    states = {}
    for framework in FRAMEWORKS:
        small = SMALL[model].split()
        run = assembled(
            f"framework={framework}", f"model={model}", *small, "train.epochs=1"
        )
        init = jax.jit(run.spec.pipeline.init)
        states[framework] = init(run.init_key, 0.1, run.values.hyperparameters)
    for framework in ("linen", "nnx"):
        ours, theirs = states["jax"], states[framework]
        for part in ("params", "model_state"):
            jax.tree.map(
                np.testing.assert_array_equal,
                getattr(ours, part),
                getattr(theirs, part),
            )


RANDOM = {
    "mlp": ("model=mlp", SMALL["mlp"], "model.dropout=0.5"),
    "cnn": ("model=cnn", *SMALL["cnn"].split(), "model.dropout=0.5"),
    "noise": NOISY,
}


@pytest.mark.parametrize(
    "framework,model",
    [
        (f, model)
        for f in FRAMEWORKS
        for model in RANDOM
        if (f, model) != ("jax", "noise")
    ],
)
def test_what_is_random_changes_with_the_step_and_is_off_in_evaluation(
    framework, model, assembled
):
    run = assembled(f"framework={framework}", *RANDOM[model], "train.epochs=1")
    pipeline, dataset = run.spec.pipeline, run.spec.dataset
    from runner.data.transforms import transformed

    batch = transformed(dataset.transforms, dataset.train.rows(np.arange(64)), None)
    state = jax.jit(pipeline.init)(run.init_key, 0.1, run.values.hyperparameters)
    gradients = jax.jit(pipeline.gradients)
    keys = jax.random.split(jax.random.key(1), 2)
    one, again, other = (
        float(gradients(state, batch, key)[0].loss)
        for key in (keys[0], keys[0], keys[1])
    )
    assert one == again != other
    predict = jax.jit(pipeline.predict)
    inputs = batch["input"]
    np.testing.assert_array_equal(predict(state, inputs), predict(state, inputs))


@pytest.mark.smoke
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_batch_norm_statistics_follow_training(framework, assembled):
    small = SMALL["cnn"].split()
    run = assembled(f"framework={framework}", "model=cnn", *small, "train.epochs=1")
    from runner.data.transforms import transformed

    dataset, pipeline = run.spec.dataset, run.spec.pipeline
    batch = transformed(dataset.transforms, dataset.train.rows(np.arange(64)), None)
    state = jax.jit(pipeline.init)(run.init_key, 0.1, run.values.hyperparameters)
    model_state = jax.jit(pipeline.gradients)(state, batch, jax.random.key(0))[2]
    assert np.all(np.asarray(model_state["norm_0"]["mean"]) != 0)
    assert np.all(np.asarray(model_state["norm_0"]["var"]) != 1)
    after = jax.jit(pipeline.predict)(
        state._replace(model_state=model_state), batch["input"]
    )
    before = jax.jit(pipeline.predict)(state, batch["input"])
    assert np.any(np.asarray(before) != np.asarray(after))


@pytest.mark.parametrize(
    "optimizer",
    [
        "sm3", "muon_adamw", "schedule_free_sgd",
        # checks/test_verify.py verifies it in nnx, core/test_optimizers.py in jax.
        pytest.param("lbfgs", marks=pytest.mark.nightly),
    ],
)  # fmt: skip
def test_odd_optimizer_states_train_alike(optimizer, trained):
    """sm3 keeps a list for each parameter, muon_adamw groups, lbfgs a history."""
    asked = ("train.steps=10", "train.epochs=null", "train.log_every_steps=1")
    runs = [
        trained(f"framework={f}", f"optimizer={optimizer}", SMALL["mlp"], *asked)
        for f in FRAMEWORKS
    ]
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.smoke
def test_linen_forwards_the_loss_to_the_optimizer():
    """The stock TrainState drops it (flax #4471): then a plateau can't be seen."""
    import optax
    from flax.training import train_state

    from runner.frameworks.linen import LinenState

    tx = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    params = {"w": np.ones(2, np.float32)}
    grads = {"w": np.ones(2, np.float32)}
    state = LinenState.create(apply_fn=None, params=params, tx=tx)
    assert state.apply_gradients(grads=grads, value=1.0).opt_state[1].best_value == 1.0
    stock = train_state.TrainState.create(apply_fn=None, params=params, tx=tx)
    with pytest.raises(TypeError, match="value"):
        stock.apply_gradients(grads=grads, value=1.0)
