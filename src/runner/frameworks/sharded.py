"""Fully sharded data parallelism around any framework's pipeline."""

from typing import Any

import jax

from runner.core.mesh import Mesh
from runner.core.pipeline import Pipeline, TrainState


def sharded(pipeline: Pipeline, mesh: Mesh) -> Pipeline:
    """`pipeline` with its state split over the axis `fsdp` of `mesh`, as in ZeRO-3.

    Parameters are gathered where a forward pass reads them; each device gets its part
    of the summed gradients and updates its part of everything. Returns the pipeline
    itself if nothing is to be split.

    Source: Rajbhandari et al., https://arxiv.org/abs/1910.02054
    """
    if mesh.fsdp == 1:
        return pipeline

    def gathered(state: TrainState) -> TrainState:
        read = state.params, state.model_state
        params, model_state = jax.lax.with_sharding_constraint(read, mesh.replicated)
        return TrainState(params, model_state, state.opt_state)

    def scattered(tree: Any) -> Any:
        return jax.lax.with_sharding_constraint(tree, mesh.state(tree))

    def init(key, learning_rate, hyperparameters):
        return scattered(pipeline.init(key, learning_rate, hyperparameters))

    def gradients(state, batch, key):
        found, *rest = pipeline.gradients(gathered(state), batch, key)
        return found, *scattered(rest)

    def apply_gradients(*arguments):
        return scattered(pipeline.apply_gradients(*arguments))

    def predict(state, inputs):
        return pipeline.predict(gathered(state), inputs)

    return Pipeline(init, gradients, apply_gradients, predict)
