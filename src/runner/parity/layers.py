"""Names for the layers of flax's modules while a function of them is traced."""

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import jax
from flax import linen, nnx

# A layer in the name of a scope, whose parts JAX separates by slashes.
_SCOPE = re.compile(r"<([^<>:]*):(\w+)>")


class Layer(NamedTuple):
    """A module that was called.

    Attributes:
      path: from the model, such as `blocks/0/attention`; empty for the model itself.
      kind: the name of its class.
    """

    path: str
    kind: str

    def __str__(self) -> str:
        return f"{self.path} ({self.kind})" if self.path else f"{self.kind} itself"


def layer_of(eqn: Any) -> Layer | None:
    """The innermost layer that an equation of a jaxpr is in."""
    found = _SCOPE.findall(str(eqn.source_info.name_stack))
    return Layer(found[-1][0].replace("|", "/"), found[-1][1]) if found else None


class _Scopes:
    """Gives what a module computes a scope with its name."""

    def __init__(self):
        self._paths: dict[int, str] = {}
        self._open: list[str] = []  # the paths of those whose call hasn't returned

    @contextmanager
    def scope(self, module: Any, path: str) -> Iterator[None]:
        """What is traced within belongs to `module`."""
        self._open.append(path)
        name = f"<{path.replace('/', '|')}:{type(module).__name__}>"
        try:
            with jax.named_scope(name):
                yield
        finally:
            self._open.pop()

    def within_linen(self, call: Callable, args: tuple, kwargs: dict, context: Any):
        """Interceptor of linen's methods."""
        if context.method_name == "setup":
            return call(*args, **kwargs)
        with self.scope(context.module, "/".join(context.module.path)):
            return call(*args, **kwargs)

    def within_nnx(self, method: Callable) -> Callable:
        """`method` of an nnx module, in a scope of its own."""

        @functools.wraps(method)
        def named(module: nnx.Module, *args: Any, **kwargs: Any) -> Any:
            # A transformation of nnx calls copies, whose path is that of what it is in.
            if not self._open:
                self._paths = {
                    id(one): "/".join(map(str, path))
                    for path, one in nnx.iter_modules(module)
                }
            inside = self._open[-1] if self._open else ""
            with self.scope(module, self._paths.get(id(module), inside)):
                return method(module, *args, **kwargs)

        return named


@contextmanager
def named() -> Iterator[None]:
    """Within, the methods of flax's modules are traced in scopes of their own."""
    scopes = _Scopes()
    with ExitStack() as stack:
        stack.enter_context(linen.intercept_methods(scopes.within_linen))
        for kind in _descendants(nnx.Module):
            for name, method in list(vars(kind).items()):
                is_call = name == "__call__" or not name.startswith("_")
                if is_call and inspect.isfunction(method):
                    stack.callback(setattr, kind, name, method)
                    setattr(kind, name, scopes.within_nnx(method))
        yield


def _descendants(kind: type) -> set[type]:
    below = kind.__subclasses__()
    return set(below).union(*map(_descendants, below))


# What draws numbers from a key, by its name in `jax.random`.
_SAMPLERS = [
    name
    for name, function in vars(jax.random).items()
    if inspect.isfunction(inspect.unwrap(function))
    and {"key", "shape"} <= set(inspect.signature(function).parameters)
]


@contextmanager
def one_key() -> Iterator[None]:
    """Within, whatever `jax.random` draws, it draws from one and the same key.

    Frameworks derive the keys of their layers in their own ways. So two forms get the
    same numbers where they draw the same shapes from the same distribution, and
    dropout of one rate has one mask.
    """
    with ExitStack() as stack:
        for name in _SAMPLERS:
            sample = getattr(jax.random, name)
            stack.callback(setattr, jax.random, name, sample)
            setattr(jax.random, name, _drawn_alike(sample))
        yield


def _drawn_alike(sample: Callable) -> Callable:
    @functools.wraps(sample)
    def alike(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(sample).bind(*args, **kwargs)
        given.arguments["key"] = jax.random.key(0)
        return sample(*given.args, **given.kwargs)

    return alike
