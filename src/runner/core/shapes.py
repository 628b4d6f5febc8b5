"""Shapes, dtypes and shardings of what a program takes and gives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr

from runner.core import feed
from runner.core.mesh import Mesh, population_mesh
from runner.core.program_spec import ProgramSpec
from runner.core.snapshot import Snapshot
from runner.core.step import Values, training_batch
from runner.core.warm_start import WarmStart
from runner.errors import ConfigError
from runner.tasks.task import is_shape, numbers


def check_traces(spec: ProgramSpec, values: Values) -> list[str]:
    """Trace a step and an evaluation, so that errors show at once.

    Returns:
      the names of the metrics that the run will have.

    Raises:
      ConfigError: the model's outputs aren't what the loss needs.
    """
    arguments = _step_arguments(spec, values)
    carry = arguments[0]
    spec.mesh.placement.check_rules(carry.state.params)
    dataset = spec.dataset
    example = feed.transformed_example(dataset, dataset.batch_size)
    inputs = spec.task.inputs(example)
    outputs = jax.eval_shape(spec.pipeline.predict, carry.state, _on_mesh(spec, inputs))
    _check_outputs(spec, outputs)
    _, row = _traced(spec, arguments)
    if spec.probe is not None:
        given = *arguments[1:3], arguments[-1]
        batch, _ = jax.eval_shape(spec.train_step.prepared, *given)
        jax.eval_shape(spec.probe, *[carry.state.params] * 3, batch)
    found = jax.eval_shape(lambda s: numbers(spec.task, s), eval_sums(spec, carry))
    # Nothing is chosen by a test split.
    evaluations = [f"{s}/{name}" for s in spec.dataset.validations for name in found]
    return [*row, *evaluations, "time/steps_per_second"]


def _check_outputs(spec: ProgramSpec, outputs: Any) -> None:
    if spec.task.output is None:
        return
    size = spec.dataset.batch_size
    found = jax.tree.map(lambda x: x.shape, outputs)
    needed = jax.tree.map(
        lambda shape: (size, *shape), spec.task.output, is_leaf=is_shape
    )
    if found != needed:
        raise ConfigError(
            f"the model's outputs have shape {found}, but the task needs {needed} for "
            f"data={spec.dataset.name}; choose another model or task"
        )


def step_jaxpr(spec: ProgramSpec, values: Values) -> Jaxpr:
    """The jaxpr of a training step, for the rules of `runner.core.choose`."""
    return _traced(spec, _step_arguments(spec, values))[0]


def _traced(spec: ProgramSpec, arguments: tuple) -> tuple[Jaxpr, Any]:
    """The training step's jaxpr, and the shapes of its row.

    Raises:
      ConfigError: the model fits the examples of an evaluation, but not of training.
    """
    try:
        traced = jax.make_jaxpr(spec.train_step, return_shape=True)(*arguments)
    except (TypeError, ValueError) as error:
        dataset = spec.dataset
        evaluated = feed.transformed_example(dataset, dataset.batch_size)
        trained = jax.eval_shape(
            lambda batch, key: training_batch(dataset.transforms, batch, key),
            feed.example(dataset),
            jax.eval_shape(lambda: jax.random.key(0)),
        )
        for name, x in evaluated.items():
            if name in trained and trained[name].shape != x.shape:
                raise ConfigError(
                    f"data.transforms: examples have {name} of shape "
                    f"{trained[name].shape[1:]} in training and {x.shape[1:]} in "
                    f"evaluation, which the model doesn't take: {error}"
                ) from error
        raise
    jaxpr, (_, row) = traced
    return jaxpr.jaxpr, row


def start_shapes(
    spec: ProgramSpec, values: Values, members: int | None = None
) -> Snapshot:
    """Shapes and shardings of what a call of the program takes from the one before."""
    mesh, lead = mesh_of(spec, members)
    shapes = carry_shapes(spec, values)
    eval_loss = jax.ShapeDtypeStruct((), jnp.float32)
    return Snapshot(
        with_sharding(shapes, mesh.state(shapes), lead),
        with_sharding(eval_loss, mesh.own, lead),
    )


def carry_shapes(spec: ProgramSpec, values: Values) -> Any:
    """Shapes and dtypes of the carry, without shardings."""
    traced = spec.init.trace(*init_arguments(spec, values))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), traced.out_info
    )


def init_arguments(spec: ProgramSpec, values: Values) -> tuple:
    """Shapes of the arguments of `ProgramSpec.init`."""
    arguments = values.key, np.float32(0), values.hyperparameters
    start = start_of(spec, values)  # split as the state will be
    start = with_sharding(start, spec.mesh.state(start))
    return *_on_mesh(spec, jax.eval_shape(lambda: arguments)), *start


def start_of(spec: ProgramSpec, values: Values) -> tuple[WarmStart, ...]:
    """Shapes of a run's `start`; none if its program takes none."""
    if not spec.warm:
        return ()
    rate, numbers = np.float32(0), values.hyperparameters
    state = jax.eval_shape(spec.pipeline.init, values.key, rate, numbers)
    state = state._replace(opt_state=())
    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    return (WarmStart(state, jax.tree.map(lambda x: flag, state)),)


def eval_sums(spec: ProgramSpec, carry: Any) -> Any:
    """Shapes of what `ProgramSpec.eval_step` returns."""
    is_example = jax.ShapeDtypeStruct((spec.dataset.batch_size,), jnp.bool_)
    batch = feed.example(spec.dataset) | {feed.IS_EXAMPLE: is_example}
    carry, batch = _on_mesh(spec, (carry, batch))
    return jax.eval_shape(spec.eval_step, carry, batch)


def _step_arguments(spec: ProgramSpec, values: Values) -> tuple:
    """Shapes of the arguments of `ProgramSpec.train_step`."""
    carry, batch = carry_shapes(spec, values), feed.example(spec.dataset)
    number, numbers = np.float32(0), jax.eval_shape(lambda: values)
    carry, batch, rate, eval_loss, numbers = _on_mesh(
        spec, (carry, batch, number, number, numbers)
    )
    # Which step it is is the same on any mesh.
    return carry, batch, np.int32(0), rate, eval_loss, numbers


def with_sharding(shapes: Any, sharding: Any, lead: tuple[int, ...] = ()) -> Any:
    """`shapes` with leading dimensions `lead`, and one sharding or one for each."""

    def placed(x, sharding):
        shape = (*lead, *x.shape)
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)

    return jax.tree.map(placed, shapes, jax.tree.broadcast(sharding, shapes))


def _on_mesh(spec: ProgramSpec, shapes: Any) -> Any:
    """`shapes` as they are within the compiled program, so that JAX traces once."""
    return with_sharding(shapes, spec.mesh.replicated)


def mesh_of(spec: ProgramSpec, members: int | None) -> tuple[Mesh, tuple]:
    """The mesh of a program's arrays, and the dimension that members add to them."""
    if members is None:
        return spec.mesh, ()
    return population_mesh(spec.mesh.devices, members), (members,)
