import numpy as np
import pytest

from runner.cli import MISTAKES
from runner.config.explain import explain

# Overrides, and what the one message must say of them.
MISTAKEN = [
    # arguments of a target
    ("+optimizer.foo=1", "optimizer.foo is not an argument of optax.adam", "nesterov"),
    ("+optimizer.b3=1", "optimizer.b3", "Did you mean 'b"),
    ("optimizer.b1=abc", "optimizer.b1=abc must be a number"),
    ("optimizer.b1=true", "optimizer.b1=True must be a number"),
    ("optimizer.mu_dtype=foo", "data type 'foo' not understood"),
    ("optimizer=sgd optimizer.momentum=abc", "must be a number or null"),
    ("optimizer=adafactor optimizer.decay_rate=abc", "decay_rate=abc must be"),
    ("optimizer=polyak_sgd optimizer.variant=foo", "variant='foo'"),
    ("optimizer.learning_rate=nonsense", "optimizer.learning_rate=nonsense must be"),
    ("optimizer.learning_rate=null", "optimizer.learning_rate=null must be a number"),
    ("optimizer.learning_rate=-1", "learning rate is -1.0 at step 0"),
    ("~optimizer.learning_rate", "schedule.value", "${optimizer.learning_rate}"),
    ("~optimizer", "optimizer must be given"),
    ("~model.hidden_sizes", "model.hidden_sizes must be given"),
    ("data=tfds", "data.name must be given"),
    # targets
    ("optimizer._target_=optax.adm", "optimizer._target_", "mean 'optax.adam'?"),
    ("optimizer._target_=null", "optimizer._target_"),
    ("~optimizer._target_", "optimizer._target_"),
    ("model._target_=nowhere.thing", "No module named 'nowhere'"),
    ("optimizer._target_=optax.chain", "takes no learning rate", "my_module.mine"),
    ("model._target_=optax", "model._target_=optax can't be loaded"),
    ("optimizer._target_=optax.constant_schedule", "learning_rate is not an argument"),
    # shapes
    ("model=cnn data=linear_ae", "model=cnn needs images", "(32,)"),
    ("model=cnn model.channels=[8,8,8,8]", "model.channels=[8, 8, 8, 8]", "16 pixels"),
    ("model=cnn model.channels=8", "model.channels=8 must be a list"),
    ("model.hidden_sizes=[0]", "model.hidden_sizes=[0]"),
    ("model.hidden_sizes=[a]", "a list, each item a whole number"),
    ("model.dropout=1", "model.dropout=1"),
    ("model.activation=rellu", "model.activation=rellu", "Did you mean 'relu'?"),
    ("model=linear_autoencoder task=classification", "(64, 64)", "(64, 10)"),
    ("data=linear_ae task=classification", "task=classification needs labels"),
    ("data.columns.label=null", "task=classification needs labels"),
    ("task.label_smoothing=2", "task.label_smoothing=2"),
    # data
    ("data.batch_size=5000", "data.batch_size=5000 is larger than the 1437"),
    ("data.batch_size=abc", "data.batch_size=abc must be a whole number"),
    ("data.batch_size=0", "data.batch_size=0"),
    ("data.name=mnits", "data.name='mnits'", "Did you mean 'mnist'?"),
    # the mesh, on 8 devices
    (
        "mesh=data mesh.data=3",
        "data.batch_size=64",
        "3 devices of mesh.data=3 and mesh.fsdp=1",
    ),
    ("mesh=data mesh.data=0", "mesh.data=0 must be -1 or between 1 and the 8"),
    ("mesh=data mesh.data=9", "mesh.data=9"),
    ("mesh=fsdp mesh.fsdp=0", "mesh.fsdp=0 must be -1 or between 1 and the 8"),
    ("mesh=fsdp mesh.data=-1", "mesh.data=-1 and mesh.fsdp=-1: only one"),
    ("mesh=fsdp mesh.data=3", "mesh.data=3 must divide the 8 devices"),
    ("mesh=data mesh.fsdp=3", "mesh.fsdp=3 must divide the 8 devices"),
    ("mesh=data_fsdp mesh.fsdp=5", "mesh.data=2 times mesh.fsdp=5", "than the 8"),
    ("mesh=tensor mesh.model=0", "mesh.model=0 must be -1 or between 1 and the 8"),
    ("mesh=tensor mesh.model=3", "mesh.model=3 must divide the 8 devices"),
    ("mesh=tensor mesh.data=8", "mesh.data=8 times mesh.model=2", "than the 8"),
    ("mesh=tensor data.batch_size=6", "data.batch_size=6", "the 4 devices"),
    ("mesh=fsdp mesh.min_shard_elements=0", "min_shard_elements=0 must be at least 1"),
    ("mesh=fsdp data.batch_size=20", "data.batch_size=20", "the 8 devices"),
    ("print=shardin", "print=shardin must be sharding, or null"),
    ("mesh=data data.batch_size=20", "data.batch_size=20", "8 devices"),
    # the length and the ranges of `train`
    ("train.steps=5", "train.epochs=20 and train.steps=5 are both given"),
    ("train.epochs=null", "both null"),
    ("train.epochs=0", "train.epochs=0 must be at least 1"),
    ("train.epochs=null train.steps=-1", "train.steps=-1 must be at least 1"),
    ("train.log_every_steps=0", "train.log_every_steps=0 must be at least 1"),
    ("train.eval_every_steps=0", "train.eval_every_steps=0 must be at least 1"),
    ("train.steps_per_call=fast", "train.steps_per_call=fast must be auto, or"),
    ("train.gradient_accumulation=0", "train.gradient_accumulation=0"),
    ("train.gradient_accumulation=3", "train.gradient_accumulation=3"),
    ("train.on_nan=explode", "train.on_nan=explode must be stop or continue"),
    ("train.ema_decay=1", "train.ema_decay=1.0 must be between"),
    ("train.clip_global_norm=0", "train.clip_global_norm=0.0 must be greater"),
    ("train.limit_batches=0", "train.limit_batches=0"),
    ("optimizer=sgd train.mask_weight_decay=true", "no weight decay to mask"),
    ("seed=-1", "seed=-1 must be from 0"),
    ("wandb.mode=of", "wandb.mode=of must be offline, online or disabled"),
    ("+train.step=5", "train has no key 'step'", "Did you mean 'steps'?"),
    ("+optimzer=sgd", "no key 'optimzer'", "Did you mean 'optimizer'?"),
    # schedules
    ("schedule=warmup_cosine schedule.warmup_steps=5000", "=5000", "train.steps=440"),
    ("schedule=warmup_cosine schedule.warmup_steps=abc", "must be a whole number"),
    ("schedule=warmup_cosine schedule.warmup_steps=-1", "must not be negative"),
    ("schedule=cosine schedule.decay_steps=0", "positive decay_steps"),
    ("schedule=piecewise_constant schedule.scales=[1]", "schedule.scales=[1]"),
    ("schedule=reduce_on_plateau schedule.factor=2", "schedule: Factor must be"),
    (
        "schedule=reduce_on_plateau schedule@schedule.base=warmup_cosine "
        "schedule.base.warmup_steps=5000",
        "schedule.base.warmup_steps=5000",
    ),
    ("schedule=reduce_on_plateau schedule.base._target_=optax.foo", "schedule.base"),
    # what is evaluated
    ("validation=tset", "validation=tset must be validation or test"),
    ("validation=test data.splits.test=null", "needs a test split, and data=digits"),
    # the objective
    ("objective=validation/acuracy", "=validation/acuracy", "'validation/accuracy'?"),
    ("task=reconstruction objective=validation/accuracy", "validation/loss"),
    ("objective=test/loss", "objective=test/loss is not a metric", "validation/loss"),
    ("optimizer=prodigy schedule=warmup_cosine", "first learning rate is 0"),
    ("optimizer=dadapt_adamw schedule=warmup_constant", "first learning rate is 0"),
    # what can't fit
    ("model.hidden_sizes=[1000000000]", "75,000,000,010 parameters", "900 GB"),
    ("data=linear_ae data.num_train=1000000000000", "=1000000000000", "GB to generate"),
    ("data=linear_ae data.input_size=1000000000", "data.input_size=1000000000"),
    # tasks and metrics
    ("+loss=classification", "loss= is called task= now"),
    ("+metric@metrics.loss=accuracy", "metrics.loss: another number"),
    ("+metric@metrics.top_k=top_k metrics.top_k.k=0", "top_k: k=0"),
    ("+metric@metrics.top_k=top_k metrics.top_k.n=0", "top_k"),
    # a user's own package
    ("model._target_=helpers.user_targets.only_jax model={}", "no 'nnx'"),
    (
        "model._target_=helpers.user_targets.other_output model={} framework=jax",
        "(64, 3)",
    ),
]
BARE = "~model.hidden_sizes ~model.activation ~model.dropout"


@pytest.mark.parametrize(
    ("overrides", "said"), [(o, said) for o, *said in MISTAKEN], ids=lambda p: str(p)
)
def test_a_mistake_is_one_message(built, overrides, said):
    with pytest.raises(MISTAKES) as caught:
        built(*overrides.replace("model={}", BARE).split())
    told = explain(caught.value)
    assert all(part in told for part in said), told
    assert told.count("\n") <= 1 and len(told) < 500


def test_mistakes_in_arguments_are_told_before_the_data_is_prepared(built, monkeypatch):
    monkeypatch.setattr("runner.data.tfds.prepare", None)
    with pytest.raises(MISTAKES, match="is not an argument"):
        built("+schedule.foo=1")
    with pytest.raises(MISTAKES, match="must be at least 1"):
        built("train.log_every_steps=0")


def test_what_a_users_target_raises_is_theirs_to_see(built):
    with pytest.raises(ValueError, match="mine to see"):
        built("model._target_=helpers.user_targets.raises", *BARE.split())


def test_a_bug_in_ours_is_no_mistake_of_the_user(built, monkeypatch):
    monkeypatch.setattr("runner.job.build._learning_rates", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        built()


def test_a_users_target_needs_no_annotations(composed):
    from runner.config.instantiate import call

    cfg = composed("model._target_=helpers.user_targets.untyped", "+model.width=abc")
    assert call(cfg, "model", inputs=None).init is None


def test_the_recorded_config_is_complete(built):
    config = built("train.epochs=2", "schedule=warmup_cosine").config
    assert config["train"]["steps_per_epoch"] == 22
    assert config["train"]["steps"] == config["schedule"]["decay_steps"] == 44
    assert config["train"]["eval_every_steps"] == 22
    assert config["schedule"]["peak_value"] == config["optimizer"]["learning_rate"]
    assert "???" not in str(config)


@pytest.mark.parametrize(
    "one,other",
    [
        (["data.data_seed=0"], ["data.data_seed=1"]),
        (["data.noise=0.1"], ["data.noise=0.2"]),
    ],
)
def test_data_of_one_shape_are_not_mixed_up(one, other, built, trained):
    """A program holds its data: once, the first job's were used for the second."""
    linear = ["data=linear_ae", "model=linear_autoencoder", "train.epochs=1"]
    first, second = built(*linear, *one), built(*linear, *other)
    assert first.spec.key != second.spec.key
    assert first.spec.dataset is not second.spec.dataset
    assert trained(*linear, *one) != trained(*linear, *other)


def test_slices_of_one_length_are_not_mixed_up(built):
    slices = ["train[:640]", "train[-640:]"]
    first, second = (
        built(f"data.splits.train='{each}'", "train.epochs=1").spec.dataset.train
        for each in slices
    )
    rows = np.arange(8)
    assert not np.array_equal(first.rows(rows)["input"], second.rows(rows)["input"])
