"""A state that is split over devices, around any framework's pipeline."""

from typing import Any

import jax

from runner.core.mesh import Mesh
from runner.core.pipeline import Pipeline, TrainState


def sharded(pipeline: Pipeline, mesh: Mesh) -> Pipeline:
    """`pipeline` with its state split over the axes of `mesh`, as in ZeRO-3.

    Parameters are gathered where a forward pass reads them, except from the axis
    `model`, whose devices compute parts of a layer; each device gets its part of the
    summed gradients and updates its part of everything. Returns the pipeline itself if
    nothing is to be split.

    Source: Rajbhandari et al., https://arxiv.org/abs/1910.02054
    """
    if not mesh.placement.splits:
        return pipeline

    def gathered(state: TrainState) -> TrainState:
        read = state._replace(opt_state=())
        read = jax.lax.with_sharding_constraint(read, mesh.read(read))
        return read._replace(opt_state=state.opt_state)

    def scattered(tree: Any) -> Any:
        return jax.lax.with_sharding_constraint(tree, mesh.state(tree))

    def init(key, learning_rate, hyperparameters):
        return scattered(pipeline.init(key, learning_rate, hyperparameters))

    def gradients(state, batch, key):
        found, grads, model_state = pipeline.gradients(gathered(state), batch, key)
        # Rules go by paths, so gradients get those of parameters.
        new = scattered(TrainState(grads, model_state, ()))
        return found, new.params, new.model_state

    def apply_gradients(*arguments):
        return scattered(pipeline.apply_gradients(*arguments))

    def predict(state, inputs):
        return pipeline.predict(gathered(state), inputs)

    return Pipeline(init, gradients, apply_gradients, predict)
