"""Checks of a configuration, before anything is made of it."""

from omegaconf import DictConfig

from runner.config.instantiate import check_targets, section
from runner.config.plain import plain
from runner.config.ranges import check_keys, check_ranges
from runner.core.keep import Keep, make_anew
from runner.errors import ConfigError, did_you_mean
from runner.record.directions import better
from runner.settings import GROUPS, HOOKS, NAMED, TrainSettings
from runner.tasks.task import Task, directions
from runner.trees import NAME_RULE, is_name


def check(cfg: DictConfig, keep: Keep = make_anew) -> None:
    """Refuse mistakes in `cfg` that don't depend on the data or the devices.

    Args:
      cfg: the composed configuration.
      keep: for parts that were checked before.

    Raises:
      ConfigError: a value is out of range, or a target doesn't take an argument.
    """
    check_keys(cfg)
    check_ranges(cfg)
    for key in ("init_exclude", "init_rename"):
        if cfg[key] and cfg.init_from is None:
            raise ConfigError(
                f"{key}={cfg[key]} needs init_from, the run or the file whose arrays "
                "it is about, which is null"
            )
    for key in HOOKS:
        for name in cfg[key]:
            if not is_name(name):
                raise ConfigError(f"{key}.{name}: a name must be made of {NAME_RULE}")
    named = [f"{key}.{name}" for key in NAMED for name in listed(cfg, key)]
    for key in (*GROUPS, *named):
        same = f"checked {key}", repr(plain(section(cfg, key)))
        keep(same, lambda key=key: check_targets(cfg, [key]))


def listed(cfg: DictConfig, key: str) -> list[str]:
    """The names in a section of NAMED; null takes one away."""
    return [name for name in cfg[key] if cfg[key][name] is not None]


def check_metrics(
    cfg: DictConfig, settings: TrainSettings, metrics: list[str], task: Task
) -> None:
    """Check the metrics that decide something.

    Raises:
      ConfigError: the run has no such metric, or none that it can be decided by.
    """
    deciding = {}
    if cfg.checkpoint.best:
        deciding["checkpoint.best=true"] = "objective", cfg.objective
    stop = "train.stop.metric", settings.stop.metric
    if settings.stop.is_on:
        deciding["train.stop"] = stop
    named = [("objective", cfg.objective), *deciding.values()]
    if settings.stop.metric != "validation/loss":  # the default, which a run may lack
        named.append(stop)
    able = [m for m in metrics if m.startswith("validation")]
    able = [m for m in able if better(m, directions(task))]
    for key, name in named:
        if name not in metrics:
            decides = any(key == other for other, _ in deciding.values())
            near = did_you_mean(name, able if decides else metrics)
            raise ConfigError(
                f"{key}={name} is not a metric of this run, which has "
                f"{', '.join(metrics)}.{near}"
            )
    for use, (key, name) in deciding.items():
        if name not in able:
            raise ConfigError(
                f"{use} needs {key}={name} to be a validation/ metric of which lower "
                f"or higher values are better.{did_you_mean(name, able)}"
            )


def check_direction(direction: str | None, objective: str, task: Task) -> None:
    """Refuse a search for the worst value of its objective.

    Args:
      direction: of the search, "minimize" or "maximize"; None: there is none.
      objective: the metric whose final values it gets.
      task: says of each metric which values are better.

    Raises:
      ConfigError: lower values are better, and it maximizes; or the other way round.
    """
    way = better(objective, directions(task))
    right = {1: "maximize", -1: "minimize", 0: direction}[way]
    if direction not in (None, right):
        raise ConfigError(
            f"hydra.sweeper.direction={direction} would search for the worst "
            f"{objective}, of which {'higher' if way > 0 else 'lower'} values are "
            f"better: hydra.sweeper.direction={right}"
        )
