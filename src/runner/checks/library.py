"""Functions of JAX, flax and optax that something of one's own has replaced.

A module that replaces `jax.nn.gelu` when it is imported changes the reference of all
other checks too.
"""

import ast
import importlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache, partial
from importlib.util import resolve_name
from types import CodeType, FunctionType
from typing import Any

import jax

_LIBRARIES = "jax", "flax", "optax", "numpy", "ml_dtypes"
# What models, tasks and optimizers are written with.
_MODULES = (
    "jax", "jax.lax", "jax.nn", "jax.nn.initializers", "jax.numpy", "jax.random",
    "flax.linen", "flax.nnx", "optax", "optax.contrib", "optax.losses",
)  # fmt: skip
_SITES = f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}"
_FUNCTIONS = FunctionType, type(jax.jit(abs)), jax.custom_jvp, jax.custom_vjp


def replaced() -> str | None:
    """A function, or a layer's method, whose code is in a file of one's own.

    Or another one of the same library, or with other arguments, under its name. Code
    that another package has installed, or that a library has made while it runs, counts
    as the library's. So do constants.

    Returns:
      its name and where its code is, in words. None if there is none.
    """
    for module in map(importlib.import_module, _MODULES):
        for name, code in _codes(module):
            if not _is_of_a_library(code.co_filename):
                where = f"{code.co_filename}:{code.co_firstlineno}"
                return f"{module.__name__}.{name} is that of {where}"
        for name, own in _imported(module):
            value = vars(module).get(name, own)
            other = getattr(value, "__name__", type(value).__name__)
            if value is not own and _top(value) in (_top(own), "functools"):
                return f"{module.__name__}.{name} is {_owner(value)}.{other}"
    return None


def _imported(module: Any) -> Iterator[tuple[str, Any]]:
    """The names that a package's file only imports, and what they stand for there."""
    body = _parsed(module.__file__).body
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    bound = {
        getattr(part, "asname", None) or getattr(part, "name", getattr(part, "id", ""))
        for node in body
        if not isinstance(node, ast.ImportFrom)
        for part in ast.walk(node)
    }
    for node in imports:
        path = "." * node.level + (node.module or "")
        origin = sys.modules.get(resolve_name(path, module.__package__))
        for alias in node.names:
            name = alias.asname or alias.name
            if name not in bound and alias.name in vars(origin or object):
                yield name, vars(origin)[alias.name]


@cache
def _parsed(file: str) -> ast.Module:
    with open(file, "rb") as source:
        return ast.parse(source.read())


def _owner(value: Any) -> str:
    found = getattr(value, "__module__", None)
    return found if isinstance(found, str) else type(value).__module__


def _top(value: Any) -> str:
    return _owner(value).partition(".")[0]


def _codes(module: Any) -> Iterator[tuple[str, CodeType]]:
    """The code of the functions of a module and of its classes, by their names."""
    for name, value in [*vars(module).items()]:  # imports may add to it meanwhile
        if isinstance(value, type):
            found = ((f"{name}.{part}", method) for part, method in vars(value).items())
        elif type(value) is partial:
            found = ((name, value.func),)
        else:
            found = ((name, value),)
        for whole_name, function in found:
            while type(function) in _FUNCTIONS:
                if type(function) is FunctionType:
                    yield whole_name, function.__code__
                # Of what it wraps, as jax.jit does, and flax around a layer's methods.
                function = vars(function).get("__wrapped__")


@cache
def _is_of_a_library(file: str) -> bool:
    if not os.path.isabs(file):  # such as <string>, of a named tuple
        return True
    return file.startswith(_roots()) or any(site in file for site in _SITES)


@cache
def _roots() -> tuple[str, ...]:
    files = (importlib.import_module(name).__file__ for name in _LIBRARIES)
    folders = [os.path.dirname(file) for file in files if file]
    return tuple(f"{f}{os.sep}" for f in [*folders, sysconfig.get_path("stdlib")])
