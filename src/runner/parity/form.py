"""One form of a model, with all that a step in its framework consists of."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from runner.core.pipeline import Pipeline, TrainState
from runner.core.step import Values
from runner.parity.graph import Graph
from runner.parity.layers import one_key
from runner.tasks.task import Task, mean

# A graph keeps all values of a forward pass, so it gets a part of the batch.
_EXAMPLES = 4


class Form:
    """A model in one framework, trained for a task.

    Whatever it draws in training, it draws from one key: see `layers.one_key`.

    Args:
      name: of the framework.
      pipeline: of the model in it.
      init: key -> TrainState.
      task: says which columns of a batch the model gets.
      values: the numbers of the run.
    """

    def __init__(
        self,
        name: str,
        pipeline: Pipeline,
        init: Callable[[jax.Array], TrainState],
        task: Task,
        values: Values,
    ):
        self.name, self._pipeline, self._values = name, pipeline, values
        self.init = lambda key: jax.device_get(init(key))
        # Not what a jitted `predict` has already traced, without names of layers.
        predict = getattr(pipeline.predict, "__wrapped__", pipeline.predict)
        self._predict = lambda state, batch: predict(state, task.inputs(batch))
        self._evaluated = jax.jit(self._predict)
        self._differentiated = jax.jit(self._gradients)
        self._updated = jax.jit(self._update)

    def _gradients(self, state: TrainState, batch: dict) -> tuple[Any, Any, Any]:
        found, grads, model_state = self._pipeline.gradients(
            state, batch, self._values.key
        )
        return mean(found.loss, found.weight), grads, model_state

    def _update(self, state, grads, loss, rate, batch):
        def loss_fn(params):
            return self._gradients(state._replace(params=params), batch)[0]

        hyperparameters, no_loss = self._values.hyperparameters, np.float32(np.inf)
        return self._pipeline.apply_gradients(
            state, grads, loss, rate, hyperparameters, loss_fn, no_loss
        )

    def outputs(self, state: TrainState, batch: dict) -> list[np.ndarray]:
        """The arrays that the model gives in evaluation mode."""
        return jax.tree.leaves(jax.device_get(self._evaluated(state, batch)))

    def gradients(self, state: TrainState, batch: dict) -> tuple[float, Any, Any]:
        """The loss, the gradients and the new model state of a training step."""
        with one_key():
            return jax.device_get(self._differentiated(state, batch))

    def update(
        self, state: TrainState, grads: Any, loss: Any, rate: Any, batch: dict
    ) -> TrainState:
        """The optimizer's step with `grads`."""
        with one_key():
            return jax.device_get(self._updated(state, grads, loss, rate, batch))

    def evaluation_graph(self, state: TrainState, batch: dict) -> Graph:
        """What `outputs` computes, of a few examples."""
        return Graph(self._predict, state._replace(opt_state=()), _few(batch))

    def training_graph(self, state: TrainState, batch: dict) -> Graph:
        """What `gradients` computes, of a few examples."""
        with one_key():
            return Graph(self._gradients, state._replace(opt_state=()), _few(batch))

    def order_of_use(self, state: TrainState, batch: dict) -> list[str]:
        """The paths of parameters and model state as a forward pass comes to them."""
        graph = self.evaluation_graph(state, batch)
        names = {number: path for path, number in graph.inputs.items()}
        used = [names[x] for op in graph.ops for x in graph.read(op) if x in names]
        return [path.partition("/")[2] for path in dict.fromkeys(used)]


def _few(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value[:_EXAMPLES] for name, value in batch.items()}
