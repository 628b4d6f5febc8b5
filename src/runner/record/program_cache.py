"""Compiled programs on disk, found by what they are made from.

XLA's cache is asked with a program that was traced and lowered, which takes far longer
than to load what it finds. This one is asked with the description of the program. What
it has holds as long as nothing has changed that the program was made from: each module
that was loaded then, JAX's configuration, the devices. What was verified then isn't
verified again.

It can't know what a target of your own reads besides its configuration while it is
traced, such as a file. `compilation_cache=null` turns it off.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import pickle
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache as xla_cache

from runner.record import compilation_cache

Module = tuple[str, int, int]  # its file, when that was changed (ns), its bytes
# Of a function: the name of the file of its executable, whether it runs on the CPU
# beside the devices, and its trees.
Function = tuple[str, bool, Any, Any]


class _Stored(NamedTuple):
    modules: dict[str, Module]
    facts: dict[str, Any]
    functions: dict[str, Function]


class Entry:
    """What is kept of one program: found, or made now and stored for later.

    Args:
      key: of the program.
      devices: what it runs on.

    Attributes:
      is_new: nothing was found.
      facts: plain values.
    """

    def __init__(self, key: str, devices: Sequence[Any]):
        self._devices = list(devices)
        self._folder = _folder()
        self._surroundings = _surroundings() if self._folder else ""
        self._name = f"{key}-{self._surroundings}"
        self.is_new = True
        self.facts: dict[str, Any] = {}
        self._kept: dict[str, Function] = {}
        self._functions: dict[str, Callable] = {}
        self._is_stored = False
        # None, a torn one, one of classes that are no more: all are as good as none.
        with contextlib.suppress(Exception):
            self._read()

    def _read(self) -> None:
        assert self._folder
        stored: _Stored = pickle.loads((self._folder / self._name).read_bytes())
        if not all(_is_same(name, module) for name, module in stored.modules.items()):
            return
        self._functions = {
            name: self._load(*function) for name, function in stored.functions.items()
        }
        self.facts = stored.facts
        self.is_new, self._is_stored = False, True

    def function(
        self, name: str, jitted: Any, *arguments: Any, on_host: bool = False
    ) -> Callable:
        """`jitted`, compiled for `arguments`, unless `name` is there already.

        `on_host`: for one CPU rather than the devices of the program.
        """
        if name not in self._functions:
            ready = self._ready(name, on_host, jitted, *arguments)
            self._functions[name] = ready
        return self._functions[name]

    def found(self, name: str) -> Callable:
        """The function `name` of an entry that isn't new."""
        return self._functions[name]

    def _ready(
        self, name: str, on_host: bool, jitted: Any, *arguments: Any
    ) -> Callable:
        if self._folder is None:
            return compiled(jitted, *arguments)
        lowered = jitted.lower(*arguments)
        told = self._surroundings + lowered.as_text()
        file = hashlib.sha256(told.encode()).hexdigest()[:32]
        self._kept[name] = file, on_host, lowered.in_tree, lowered.out_tree
        with contextlib.suppress(Exception):
            return self._load(*self._kept[name])
        with _without_xla_cache:
            made = lowered.compile()
        with contextlib.suppress(Exception):  # a backend that can't do it, a full disk
            executable, _, _ = serialize_executable.serialize(made)
            _write(self._folder / file, executable)
        return made

    def _load(self, file: str, on_host: bool, in_tree: Any, out_tree: Any) -> Callable:
        assert self._folder
        devices = self._devices
        if on_host:
            devices = jax.local_devices(backend="cpu")[:1]
        return serialize_executable.deserialize_and_load(
            (self._folder / file).read_bytes(),
            in_tree,
            out_tree,
            devices[0].client,
            devices,
        )

    def store(self) -> None:
        """Keep what is new for the next process, where that can be. Once."""
        if self._folder is None or self._is_stored:
            return
        self._is_stored = True
        with contextlib.suppress(Exception):  # trees of classes that pickle can't name
            stored = _Stored(_modules(), self.facts, self._kept)
            _write(self._folder / self._name, pickle.dumps(stored))


def compiled(jitted: Any, *arguments: Any) -> Callable:
    """`jitted`, compiled. With debug_nans as it is: only so does JAX find the NaN."""
    if jax.config.jax_debug_nans:  # pyright: ignore[reportAttributeAccessIssue]
        return jitted
    return jitted.lower(*arguments).compile()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class _WithoutXlaCache:
    """A context manager. On CPU what XLA's cache has loaded can't be serialized again.

    Several threads may compile. Another thread's program may miss the cache meanwhile;
    it is compiled, then.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._inside = 0
        self._cache: str | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._cache = jax.config.jax_compilation_cache_dir  # pyright: ignore
                _set_xla_cache(None)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _set_xla_cache(self._cache)


_without_xla_cache = _WithoutXlaCache()


def _set_xla_cache(folder: str | None) -> None:
    jax.config.update("jax_compilation_cache_dir", folder)
    xla_cache.reset_cache()


def _folder() -> Path | None:
    if jax.config.jax_debug_nans or jax.process_count() > 1:  # pyright: ignore
        return None
    folder = compilation_cache.folder
    return folder and folder / "programs"


def _surroundings() -> str:
    """A digest of what a compiled program depends on and no module's file tells."""
    flags = {
        name: repr(value)
        for name, value in jax.config.values.items()
        if "cache" not in name
    }
    variables = {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_"))}
    devices = [str(device) for device in jax.devices()]
    version = jax.devices()[0].client.platform_version
    told = [flags, variables, devices, version, _cpu(), sys.version, sys.prefix]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _cpu() -> str:
    """The CPU's own instructions: a home folder may be shared by other machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return ""
    return "".join(
        line for line in lines if line.startswith(("model name", "flags", "Features"))
    )


def _modules() -> dict[str, Module]:
    files = {
        name: getattr(module, "__file__", None)
        for name, module in list(sys.modules.items())
    }
    described = {name: _described(file) for name, file in files.items() if file}
    return {name: module for name, module in described.items() if module}


def _described(file: str) -> Module | None:
    try:
        stat = os.stat(file)
    except OSError:  # in a zip file, or gone
        return None
    return os.path.abspath(file), stat.st_mtime_ns, stat.st_size


def _is_same(name: str, module: Module) -> bool:
    """Whether `name` still stands for `module`, here and now."""
    file = module[0]
    if _described(file) != module:
        return False
    if name in sys.modules:
        here = getattr(sys.modules[name], "__file__", None)
        return here is not None and os.path.abspath(here) == file
    if file.startswith(sys.prefix) or file.startswith(sys.base_prefix):
        return True
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and os.path.abspath(spec.origin or "") == file
