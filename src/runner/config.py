"""The configuration: its folder, its schema, and the form in which it is recorded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf


@dataclass
class TrainConfig:
    """`train`: how long, how often and how. conf/config.yaml explains each key."""

    epochs: int | None = MISSING
    steps: int | None = MISSING
    steps_per_epoch: int | None = MISSING
    log_every_steps: int = MISSING
    eval_every_steps: int = MISSING
    steps_per_call: Any = MISSING
    on_nan: str = MISSING
    clip_global_norm: float | None = MISSING
    gradient_accumulation: int = MISSING
    mask_weight_decay: bool = MISSING
    ema_decay: float | None = MISSING
    limit_batches: int | None = MISSING
    debug_nans: bool = MISSING
    profile: bool = MISSING


@dataclass
class MeshConfig:
    """`mesh`: the named axes of the device mesh and how many devices each takes."""

    data: int = MISSING


@dataclass
class WandbConfig:
    """`wandb`: W&B's own names; null where W&B or the program decides."""

    mode: str = MISSING
    project: str | None = MISSING
    entity: str | None = MISSING
    group: str | None = MISSING
    job_type: str | None = MISSING
    name: str | None = MISSING
    tags: list[str] | None = MISSING
    notes: str | None = MISSING


@dataclass
class Config:
    """The sections whose keys and types are ours. The groups' targets define theirs."""

    seed: int = MISSING
    objective: str = MISSING
    compilation_cache: str | None = MISSING
    train: TrainConfig = MISSING
    mesh: MeshConfig = MISSING
    wandb: WandbConfig = MISSING
    loss: Any = MISSING
    data: Any = MISSING
    model: Any = MISSING
    framework: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING


def conf_dir() -> Path:
    """The folder of YAML files: in an installed package, beside src in a checkout."""
    package = Path(__file__).resolve().parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


def register() -> None:
    """Give Hydra the schema, and OmegaConf the resolver that the schedules use."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("fraction_of", fraction_of, replace=True)


def fraction_of(steps: int, fraction: float) -> int:
    """`fraction` of `steps`, rounded down, but at least one step."""
    return max(1, int(steps * fraction))


def recorded(cfg: DictConfig) -> dict[str, Any]:
    """`cfg` resolved into plain values, as config.json and W&B get it.

    A value that comes from an environment variable, directly or through another key,
    stays the interpolation that names it: it may be a secret, and it isn't portable.
    """
    from_environment = {
        str(OmegaConf.select(cfg, key))
        for key, raw in _interpolations(cfg)
        if "${oc.env:" in raw
    }
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    for key, raw in _interpolations(cfg):
        if any(value in str(OmegaConf.select(cfg, key)) for value in from_environment):
            *parents, last = key.split(".")
            node: Any = plain
            for parent in parents:
                node = node[int(parent) if isinstance(node, list) else parent]
            node[int(last) if isinstance(node, list) else last] = raw
    return cast(dict[str, Any], plain)


def _interpolations(cfg: DictConfig) -> list[tuple[str, str]]:
    """(dotted key, text) of every interpolation in `cfg`."""
    found = []

    def walk(node: Any, path: list[str]) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            if isinstance(value, dict | list):
                walk(value, [*path, str(key)])
            elif isinstance(value, str) and "${" in value:
                found.append((".".join([*path, str(key)]), value))

    walk(OmegaConf.to_container(cfg, resolve=False), [])
    return found
