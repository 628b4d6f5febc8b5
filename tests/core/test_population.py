"""A population trains as its members would alone, and each has its own fate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.at_night import one_in
from helpers.packed import alone, assert_close, together
from helpers.shipped import SMALL, each_of
from helpers.training import SESSION
from runner.core.choose import FORMS
from runner.core.convolution import has_convolution
from runner.core.mesh import population_mesh, population_size
from runner.core.run import Host
from runner.core.shapes import step_jaxpr
from runner.core.step import init as init_step
from runner.core.step import train_step
from runner.core.train import train
from runner.errors import TrainingStopped

CNN_ARGUMENTS = (
    "channels", "kernel_size", "hidden_size", "activation", "dropout", "norm_momentum",
)  # fmt: skip
# The kinds of states that test_mesh.py has not; below, members train with moments.
OTHERS = ("sgd", "lbfgs", "sam", "schedule_free_adamw", "dog")


@pytest.mark.parametrize("name", each_of(OTHERS))
def test_every_optimizer_packed_equals_plain(assembled, name):
    """The step; the tests below have all that is around it."""
    runs = [assembled(f"optimizer={name}", f"seed={seed}", *SMALL) for seed in (0, 1)]
    spec = runs[0].spec
    plain = spec.train_step
    step = train_step(spec.pipeline, spec.task, spec.dataset.transforms, 1)
    packed = jax.jit(jax.vmap(step, (0, 0, None, 0, None, 0)))
    init = init_step(spec.pipeline, False, spec.optimizer)
    alone = [
        init(run.init_key, run.learning_rates[0], run.values.hyperparameters)
        for run in runs
    ]
    together = stacked(*alone)
    values = stacked(*(run.values for run in runs))
    for i in range(12):
        batches = [
            spec.dataset.train.rows(order.indices_at(i))
            for order in (run.order for run in runs)
        ]
        rates = jnp.stack([run.learning_rates[i] for run in runs])
        no_loss = jnp.float32(jnp.inf)
        together, rows = packed(
            together, stacked(*batches), jnp.int32(i), rates, no_loss, values
        )
        for member, run in enumerate(runs):
            alone[member], row = plain(
                alone[member], batches[member], jnp.int32(i), rates[member], no_loss,
                run.values,
            )  # fmt: skip
            own = {k: float(v[member]) for k, v in rows.items()}
            assert_close([own | {"step": i}], [row | {"step": i}])


def stacked(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def test_a_look_at_an_evaluation_sees_each_members_own_state(built):
    runs = [
        built(*SMALL, "train.eval_every_steps=7", f"seed={seed}") for seed in (0, 1)
    ]
    alone, packed = {}, {}

    def host(seen):
        def look(index, row, state):
            seen[index, row["step"]] = row["validation/loss"], state["params"]

        return Host(lambda index, row: None, look=look, looks=True)

    for index, run in enumerate(runs):
        own = {}
        SESSION.train(run, host(own))
        alone |= {(index, step): each for (_, step), each in own.items()}
    program = SESSION.program(runs[0].spec, runs[0].values, runs[0].timetable, 2)
    assert not list(train(program, runs, host(packed)))
    assert packed.keys() == alone.keys() and len(alone) > 2
    for key, (loss, params) in packed.items():
        assert loss == pytest.approx(alone[key][0], 1e-4)
        for x, y in zip(*map(jax.tree.leaves, (params, alone[key][1])), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-4)


@pytest.mark.parametrize("framework", one_in(3, ["nnx", "jax", "linen"]))
def test_members_differ_in_every_number_that_is_an_argument(built, framework):
    different = (
        ["schedule=cosine", "optimizer.learning_rate=0.01", "seed=1"],
        ["schedule=constant", "optimizer.b1=0.5", "seed=2"],
        ["schedule=warmup_cosine", "optimizer.eps=1e-3", "data.reshuffle=false"],
    )
    runs = [
        built(*SMALL, f"framework={framework}", "model.dropout=0.1", *overrides)
        for overrides in different
    ]
    assert len({run.spec.key for run in runs}) == 1
    rows, _ = together(runs)
    for run, own in zip(runs, rows, strict=True):
        assert_close(own, alone(run))


def test_a_plateau_and_an_average_are_each_members_own(built):
    fixed = (
        "schedule=reduce_on_plateau", "schedule.unit=steps", "schedule.patience=5",
        "schedule.watch=validation", "schedule.rtol=0.5", "train.ema_decay=0.9",
    )  # fmt: skip
    runs = [
        built(
            *SMALL,
            *fixed,
            "train.eval_every_steps=5",
            f"optimizer.learning_rate={rate}",
        )
        for rate in (0.3, 1e-6)
    ]
    rows, _ = together(runs)
    for run, own in zip(runs, rows, strict=True):
        assert_close(own, alone(run))
    assert rows[1][-1]["train/learning_rate"] < 1e-6  # it fell
    assert rows[0][0]["train/learning_rate"] == pytest.approx(0.3)


@pytest.mark.smoke
def test_a_nan_stops_its_member_alone_and_with_the_same_row(built):
    runs = [
        built("optimizer=sgd", f"optimizer.learning_rate={rate}", *SMALL)
        for rate in (0.1, 1e30, 0.2)
    ]
    rows, errors = together(runs)
    assert [type(error) for error in errors.values()] == [TrainingStopped]
    assert list(errors) == [1]
    with pytest.raises(TrainingStopped, match="Try a lower") as told:
        alone(runs[1])
    assert str(errors[1]) == str(told.value)
    assert len(rows[0]) == len(rows[2]) == 20 and len(rows[1]) < 12
    assert_close(rows[0], alone(runs[0]))


def test_on_nan_continue_goes_on(built):
    fixed = (*SMALL, "optimizer=sgd", "train.on_nan=continue")
    runs = [built(*fixed, f"optimizer.learning_rate={rate}") for rate in (1e30, 0.1)]
    rows, errors = together(runs)
    assert not errors and len(rows[0]) == 20


def test_a_writer_that_fails_ends_its_run_alone(built):
    runs = [built(*SMALL, f"seed={seed}") for seed in (0, 1)]
    spec, values, timetable = runs[0].spec, runs[0].values, runs[0].timetable
    compiled = SESSION.program(spec, values, timetable, 2)
    rows = []

    def write(index, row):
        if index == 0:
            raise OSError(28, "No space left on device")
        rows.append(row)

    errors = dict(train(compiled, runs, Host(write)))
    assert list(errors) == [0] and isinstance(errors[0], OSError)
    assert len(rows) == 20


def test_a_run_that_cannot_be_finished_fails_alone(built):
    runs = [built(*SMALL, f"seed={seed}") for seed in (0, 1, 2)]
    program = SESSION.program(runs[0].spec, runs[0].values, runs[0].timetable, 3)
    finished = []

    def finish(index, state, numbers):
        if index == 1:
            raise OSError(28, "No space left on device")
        finished.append(index)

    ((index, error),) = train(program, runs, Host(lambda i, row: None, finish=finish))
    assert index == 1 and isinstance(error, OSError)
    assert finished == [0, 2]


def test_a_run_whose_look_fails_where_it_would_stop_ends_once(built):
    runs = [
        built(*SMALL, "train.eval_every_steps=5", f"seed={seed}") for seed in (0, 1)
    ]
    program = SESSION.program(runs[0].spec, runs[0].values, runs[0].timetable, 2)
    finished = []

    def look(index, row, state):
        if index == 0:
            raise ValueError("it fails")

    host = Host(
        lambda index, row: None,
        finish=lambda index, state, numbers: finished.append(index),
        stop=lambda index, row: index == 0 and row["step"] == 5,
        look=look, looks=True, may_stop=True,
    )  # fmt: skip
    ((index, error),) = train(program, runs, host)
    assert index == 0 and isinstance(error, ValueError)
    assert finished == [1]


def test_a_population_is_filled_up_and_spread_over_devices(built):
    fixed = (*SMALL, "mesh=data")
    runs = [built(*fixed, f"seed={seed}") for seed in range(3)]
    assert runs[0].spec.mesh.devices == 8
    rows, _ = together(runs)  # 2 devices a member's batch, 4 members
    for run, own in zip(runs, rows, strict=True):
        assert_close(own, alone(built(*SMALL, f"seed={run.config['seed']}")))


@pytest.mark.parametrize("devices", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("members", [1, 2, 3, 5, 8, 9])
def test_population_size(devices, members):
    size = population_size(devices, members)
    assert members <= size < members + devices
    if devices <= len(jax.devices()):
        mesh = population_mesh(devices, size).own.mesh
        assert np.prod(list(mesh.shape.values())) == devices
        assert size % mesh.shape["members"] == 0


@pytest.mark.parametrize("framework", one_in(2, ["linen", "nnx"]))
def test_a_users_convolutions_give_the_same_curves_in_every_form(built, framework):
    """XLA's or patches, alone or side by side, within TOLERANCE."""
    own = (
        "model=cnn", "model._target_=helpers.user_targets.strided",
        *(f"~model.{name}" for name in CNN_ARGUMENTS), "train.epochs=null",
        "train.steps=8", "train.log_every_steps=1", "train.eval_every_steps=8",
        "optimizer.learning_rate=0.01", f"framework={framework}",
    )  # fmt: skip
    native, patches = (
        [built(*own, f"train.convolution={form}", f"seed={s}") for s in (0, 1)]
        for form in FORMS
    )
    assert native[0].spec.key != patches[0].spec.key
    assert has_convolution(step_jaxpr(native[0].spec, native[0].values))
    assert not has_convolution(step_jaxpr(patches[0].spec, patches[0].values))
    wanted = [alone(run) for run in native]
    for form in (together(native)[0], map(alone, patches), together(patches)[0]):
        for rows, other in zip(form, wanted, strict=True):
            assert_close(rows, other)
