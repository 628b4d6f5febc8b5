"""The parts that all runs of a program share, made by the first of them."""

import inspect
from typing import Any, NamedTuple

import jax
from omegaconf import DictConfig

from runner.checks.reference import Watched, reference
from runner.checks.side_by_side import Toy
from runner.checks.toy import BATCH_SIZE, on_toy, toy_model, toy_task
from runner.checks.trajectory import Trajectories
from runner.config.instantiate import function, target
from runner.core import feed, step
from runner.core.convolution import as_patches
from runner.core.mesh import device_mesh
from runner.core.optimizer_spec import OptimizerSpec
from runner.core.optimizers import Optimizer, optimizer
from runner.core.pipeline import Pipeline
from runner.core.probe import GIVEN, probe
from runner.core.program_spec import ProgramSpec, key_of
from runner.core.step import ROW_NAMES
from runner.data.dataset import Dataset
from runner.errors import ConfigError
from runner.frameworks.precise import precise
from runner.frameworks.sharded import sharded
from runner.job.check import listed
from runner.job.description import description
from runner.job.part import part
from runner.job.session import Session
from runner.models.model import Model
from runner.tasks.task import Task


class Shared(NamedTuple):
    """The parts shared by all runs of one program, made by the first."""

    spec: ProgramSpec
    trajectories: Trajectories


def shared(
    cfg: DictConfig,
    session: Session,
    dataset: Dataset,
    config: dict[str, Any],
    asked: OptimizerSpec,
    tx: Optimizer,
) -> Shared:
    """The parts that all runs of the program share, made here by the first run."""
    microbatches = config["train"]["gradient_accumulation"]
    mesh = device_mesh(cfg.mesh, dataset.batch_size, microbatches)
    task = _task(cfg, session, dataset)
    inputs = task.inputs(dataset.features)
    sizes = {"inputs": inputs, "output": task.output}
    model = session.made(cfg, "model", dtype=cfg.precision.compute, **sizes)
    _check_precision(cfg)
    plain = description(config, dataset, mesh, tx, asked)
    functions = {
        name: function(cfg, f"probes.{name}", GIVEN) for name in listed(cfg, "probes")
    }

    def make() -> Shared:
        example = feed.transformed_example(dataset, dataset.batch_size)
        watched = Watched(model)

        def as_asked(pipeline: Pipeline) -> Pipeline:
            pipeline = precise(pipeline, cfg.precision.matmul)
            if config["train"]["convolution"] == "patches":
                pipeline = pipeline._replace(
                    gradients=as_patches(pipeline.gradients),
                    predict=as_patches(pipeline.predict),
                )
            return pipeline

        pipeline = as_asked(_pipeline(cfg, watched, task, tx, example))
        pipeline = pipeline._replace(predict=jax.jit(pipeline.predict))
        placed = mesh.with_metadata(pipeline)
        on_mesh = sharded(pipeline, placed)
        averaging = config["train"]["ema_decay"] is not None
        steps = config["train"]["steps_per_call"]
        parts = on_mesh, task, dataset.transforms
        spec = ProgramSpec(
            description=plain,
            pipeline=pipeline,
            init=jax.jit(step.init(on_mesh, averaging, tx)),
            train_step=step.train_step(*parts, microbatches, placed.devices),
            eval_step=jax.jit(step.eval_step(*parts)),
            task=task,
            dataset=dataset,
            mesh=placed,
            averaging=averaging,
            microbatches=microbatches,
            steps_per_call=None if isinstance(steps, str) else steps,
            reference=lambda: as_asked(
                reference(model, watched.its_form, task, tx, example)
            ),
            canonical=model.init is not None,
            optimizer=tx,
            warm=config["init_from"] is not None,
            probe=probe(functions) if functions else None,
            probes=config["probes"],
        )
        return Shared(spec, Trajectories(_toy(cfg, dataset, task, asked, tx)))

    return session.keep(("shared", key_of(plain, config["probes"])), make)


def _task(cfg: DictConfig, session: Session, dataset: Dataset) -> Task:
    """The task, with the configured metrics beside its own."""
    features = dataset.features
    task = session.made(cfg, "task", features=features)
    metrics = dict(task.metrics)
    for name in cfg.metrics:
        if name in metrics or name in ("loss", *ROW_NAMES):
            raise ConfigError(f"metrics.{name}: another number of a row has this name")
        if cfg.metrics[name] is not None:
            metrics[name] = session.made(cfg, f"metrics.{name}", features=features)
    return task._replace(metrics=metrics)


def _check_precision(cfg: DictConfig) -> None:
    if cfg.precision.compute == "float32":
        return
    if "dtype" not in inspect.signature(target(cfg, "model")).parameters:
        raise ConfigError(
            f"precision.compute={cfg.precision.compute} needs a model that takes "
            f"dtype=, and {cfg.model._target_} does not"
        )


def _pipeline(
    cfg: DictConfig, model: Model, task: Task, tx: Optimizer, example: dict
) -> Pipeline:
    """The framework's. It gets copies: a reference is made from the same parts."""
    return part(
        cfg,
        "framework",
        model=model,
        task=task._replace(metrics=dict(task.metrics)),
        optimizer=tx._replace(hyperparameters=dict(tx.hyperparameters)),
        example=dict(example),
    )


def _toy(
    cfg: DictConfig, dataset: Dataset, task: Task, asked: OptimizerSpec, tx: Optimizer
) -> Toy:
    """The run's framework, task and optimizer on a toy model."""
    task, asked = toy_task(task), on_toy(asked)
    tx = optimizer(asked) if asked.groups or asked.exempt else tx
    names = [group.name for group in asked.groups]
    model = Watched(toy_model(task.output, cfg.precision.compute, names))
    example = feed.transformed_example(dataset, BATCH_SIZE)
    pipeline = _pipeline(cfg, model, task, tx, example)
    matmul = cfg.precision.matmul
    return Toy(precise(pipeline, matmul), model, task, tx, asked, matmul, dataset)
