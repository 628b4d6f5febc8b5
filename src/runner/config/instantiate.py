"""Makes the object that a group's `_target_` names. Nothing else instantiates."""

import functools
import importlib
import inspect
import operator
import pkgutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from runner.config.argument_ranges import check_argument
from runner.config.argument_types import described, fits, hints
from runner.config.explain import explain
from runner.config.optimizer_groups import NOT_ARGUMENTS, sections
from runner.config.plain import plain, without_interpolations
from runner.config.users_code import raised
from runner.errors import ConfigError, did_you_mean

_HYDRA_KEYS = {"_target_", "_convert_", "_partial_", "_recursive_", "_args_"}


def check_targets(cfg: DictConfig, groups: Iterable[str]) -> None:
    """Check the names of all arguments, and the values that need no resolving.

    Raises:
      ConfigError: see `target`.
    """
    for group in groups:
        node = section(cfg, group)
        if isinstance(node, DictConfig):
            node = plain(node)
        for key, each in sections(node, group).items():
            _check(each, key)


def section(cfg: DictConfig, key: str) -> Any:
    """The part of `cfg` at a dotted key, such as `metrics.accuracy`."""
    return functools.reduce(operator.getitem, key.split("."), cfg)


def resolved(cfg: DictConfig, group: str) -> Any:
    """`section` as plain values, without interpolations.

    Raises:
      ConfigError: one refers to nothing.
    """
    try:
        return without_interpolations(section(cfg, group))
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error


def target(cfg: DictConfig, group: str) -> functools.partial:
    """The function that `cfg[group]._target_` names, with the arguments beside it.

    Raises:
      ConfigError: no such function, an argument that it doesn't take, or a value that
        its annotations exclude.
    """
    return targets(cfg, group)[group]


def targets(cfg: DictConfig, group: str) -> dict[str, functools.partial]:
    """`target`, and those of the groups of parameters in it, by their keys.

    Raises:
      ConfigError: see `target`.
    """
    every = sections(resolved(cfg, group), group)
    return {key: _made(each, key) for key, each in every.items()}


def _made(node: Any, group: str) -> functools.partial:
    _check(node, group)
    try:
        made = instantiate(node, _convert_="all", _partial_=True)
        # Hydra's subclass isn't flattened when it is wrapped in a partial again.
        return functools.partial(made.func, *made.args, **made.keywords)
    except InstantiationException as error:  # from a nested node
        cause = error.__cause__
        if isinstance(cause, ConfigError):
            raise cause from None
        if cause is None:
            raise ConfigError(f"{group}: {' '.join(str(error).split())}") from None
        if isinstance(cause, ValueError | TypeError) and all(
            _is_known(name) for name in target_names(node)
        ):
            raise ConfigError(f"{group}: {cause}") from cause
        raise cause from None


def call(cfg: DictConfig, group: str, **given) -> Any:
    """Call `cfg`'s target for `group`, with those of `given` that it takes.

    An argument that optax or runner refuses is a mistake in the configuration; what a
    user's own target raises is shown in full.
    """
    made = function(cfg, group, given)
    try:
        return made(**given)
    except (TypeError, ValueError) as error:
        if _is_known(section(cfg, group)._target_) and not raised(error):
            raise ConfigError(f"{group}: {error}") from error
        raise


def function(cfg: DictConfig, group: str, given: Collection[str]) -> Callable[..., Any]:
    """`cfg`'s target for `group` as a function of `given`, by name.

    It passes on those of them that the target takes.

    Raises:
      ConfigError: see `target`; or it needs an argument that nobody gives it.
    """
    made = target(cfg, group)
    name = section(cfg, group)._target_
    parameters = inspect.signature(made).parameters
    taken = [k for k in given if k in parameters or _open(parameters)]
    for argument, parameter in parameters.items():
        variable = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and not variable:
            if argument not in taken:
                raise ConfigError(f"{group}.{argument} must be given: {name} needs it")
    return lambda **values: made(**{k: values[k] for k in taken})


def _check(node: Any, key: str) -> None:
    if isinstance(node, str) and "." not in key:
        raise ConfigError(
            f"{key}={node} must be a section, with its function as _target_. In the "
            f"defaults of a file, `- override /{key}: {node}` chooses {key}/{node}.yaml"
        )
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise ConfigError(
            f"{key} must name its function as {key}._target_, with `_target_:` in its "
            "YAML file"
        )
    name = node["_target_"]
    try:
        function = pkgutil.resolve_name(name)
        parameters = inspect.signature(function).parameters
    except (ImportError, SyntaxError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{key}._target_={name} can't be loaded: {error}.{_nearest(name)}"
        ) from error
    if name == "optax.chain" and key.startswith("optimizer"):
        raise ConfigError(
            f"{key}._target_=optax.chain takes no learning rate, which schedules "
            "need. Write a function of your own that does, `def mine(learning_rate): "
            "return optax.chain(..., optax.scale_by_learning_rate(learning_rate))`, "
            f"and name it: {key}._target_=my_module.mine"
        )
    annotations = hints(function)
    for argument, value in node.items():
        if argument in _HYDRA_KEYS:
            continue
        parameter = parameters.get(argument)
        if parameter is None:
            if _open(parameters):
                continue
            names = [*parameters, *(NOT_ARGUMENTS if ".groups." in key else ())]
            raise ConfigError(
                f"{key}.{argument} is not an argument of {name}, which takes "
                f"{', '.join(parameters)}." + did_you_mean(argument, names)
            )
        hint = annotations.get(argument, Any)
        is_nested = isinstance(value, dict) and "_target_" in value
        if ("${" in str(value) and not is_nested) or value == "???":
            continue  # `call` reports what is missing
        if value != parameter.default and not fits(value, hint):
            value = "null" if value is None else value
            raise ConfigError(f"{key}.{argument}={value} must be {described(hint)}")
        if _is_known(name) and value != parameter.default:
            check_argument(f"{key}.{argument}", name, value)
        nested = {argument: value}
        if isinstance(value, list):
            nested = {f"{argument}[{i}]": item for i, item in enumerate(value)}
        for part, item in nested.items():
            if isinstance(item, dict) and "_target_" in item:
                _check(item, f"{key}.{part}")
                _check_complete(item, f"{key}.{part}")


def _check_complete(node: dict, key: str) -> None:
    """Refuse a nested function that lacks an argument: nobody else gives it one."""
    if node.keys() & {"_partial_", "_args_"}:
        return
    parameters = inspect.signature(pkgutil.resolve_name(node["_target_"])).parameters
    for name, parameter in parameters.items():
        variable = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and not variable and name not in node:
            raise ConfigError(
                f"{key}.{name} must be given: {node['_target_']} needs it"
            )


def _open(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _is_known(name: str) -> bool:
    return name.split(".")[0] in ("optax", "runner")


def target_names(node: Any) -> Iterator[str]:
    """Each `_target_` in a plain configuration or a part of it."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from target_names(value)
    elif isinstance(node, list):
        for value in node:
            yield from target_names(value)


def _nearest(name: str) -> str:
    """The nearest name to what of `name` isn't there, as a sentence or nothing."""
    *parts, last = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:end]))
        except Exception:  # it is wrong itself
            last = parts[end - 1]
            continue
        names = dir(module)
        names += [m.name for m in pkgutil.iter_modules(getattr(module, "__path__", ()))]
        close = did_you_mean(last, [n for n in names if n != last])
        return close.replace("'", f"'{module.__name__}.", 1)
    return ""
