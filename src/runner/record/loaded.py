"""The code that a process has loaded: distributions, and modules of one's own."""

import hashlib
import importlib.metadata
import os
import sys
import sysconfig
import threading
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

_SITES = ("site-packages", "dist-packages")
# Below these are Python's own modules, and the scripts that start installed ones.
_PYTHON = tuple(
    f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "scripts")
)
_MAIN = {"__main__", "__mp_main__"}  # the second is multiprocessing's alias
_RUNNER = Path(__file__).parents[1]
_OURS = tuple(f"{path}/" for path in (_RUNNER, _RUNNER.with_name("hydra_plugins")))


class Loaded:
    """Finds what this process has loaded. Threads may share it.

    A module's file is read when the process first sees the module, and again only where
    it was reloaded: what it holds after an edit isn't what runs. So is an installed
    file that belongs to no distribution, such as sitecustomize.py. runner's own modules
    are left out.
    """

    def __init__(self):
        sites = dict.fromkeys(p for p in sys.path if Path(p).name in _SITES)
        self._sites = tuple(f"{site}/" for site in sites)
        self._installed: dict[str, str] = {}  # the version of each distribution
        self._owners: dict[str, list[str]] = {}  # those of each top-level module
        for site in sites:
            self._search(site)
        self._seen: set[str] = set()
        self._done: set[str] = set()  # top-level modules whose others aren't one's own
        self._versions: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self._lock = threading.Lock()

    def version(self, distribution: str) -> str | None:
        """The installed version; None if it isn't installed."""
        if distribution in self._installed:
            return self._installed[distribution]
        try:  # anywhere else on the path
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    def facts(self) -> tuple[dict[str, str], dict[str, str]]:
        """Versions of the loaded distributions, and digests of one's own modules."""
        with self._lock:
            new = set(list(sys.modules)) - self._seen  # threads import meanwhile
            self._seen |= new
            self._find_distributions({name.partition(".")[0] for name in new})
            for name in new:
                if name.partition(".")[0] not in self._done and self._is_own(name):
                    self._digests[name] = _first_digest(name)
            versions, digests = self._versions.items(), self._digests.items()
            return dict(sorted(versions)), dict(sorted(digests))

    def _search(self, site: str) -> None:
        """Find the distributions in a folder, and the modules of each."""
        for entry in os.listdir(site) if os.path.isdir(site) else ():
            stem, extension = os.path.splitext(entry)
            name, *version = stem.split("-")
            name = name.lower().replace("_", "-")
            is_known = name in self._installed  # the path has another one before it
            if version and extension in (".dist-info", ".egg-info") and not is_known:
                self._installed[name] = version[0]
                for module in _modules(f"{site}/{entry}"):
                    self._owners.setdefault(module, []).append(name)

    def _find_distributions(self, tops: Set[str]) -> None:
        for top in tops - self._done - _MAIN:
            attributes = _attributes(top)
            file = attributes.get("__file__")
            is_installed = any(
                str(path).startswith(self._sites)
                for path in [file or "", *(attributes.get("__path__") or ())]
            )
            owners = self._owners.get(top, ()) if is_installed else ()
            self._versions.update((name, self._installed[name]) for name in owners)
            # Without a file, another portion of it may be one's own.
            if file and (owners or (file.startswith(_PYTHON) and not is_installed)):
                self._done.add(top)

    def _is_own(self, name: str) -> bool:
        file = _attributes(name).get("__file__")
        if not isinstance(file, str) or file.startswith(_OURS):
            return False
        if file.startswith(self._sites):
            return name.partition(".")[0] not in _MAIN | self._owners.keys()
        return name != "__mp_main__" and not file.startswith(_PYTHON)


def edited(*provenances: Mapping[str, Any]) -> list[str]:
    """The modules of one's own that this process has otherwise than some runs."""
    _, now = Loaded().facts()
    found: set[str] = set()
    for provenance in provenances:
        then = provenance.get("module_digests")
        known = then if isinstance(then, Mapping) else {}
        found |= {name for name in now if known.get(name, now[name]) != now[name]}
    return sorted(found)


def _attributes(module: str) -> dict[str, Any]:
    """Those of a loaded module; one that loads when it is used isn't used here."""
    try:
        return object.__getattribute__(sys.modules[module], "__dict__")
    except (KeyError, AttributeError):
        return {}


def _modules(metadata: str) -> set[str]:
    """The top-level modules of the distribution with this folder."""
    for name in ("RECORD", "top_level.txt"):
        try:
            with open(f"{metadata}/{name}", "rb") as file:
                lines = file.read().split(b"\n")
        except OSError:
            continue
        firsts = {line.partition(b"/")[0] for line in lines}
        return {first.partition(b".")[0].strip().decode() for first in firsts}
    return set()


# A reload gives a module another `__spec__`; a script has none.
_FIRST: dict[str, tuple[Any, Any, str]] = {}


def _first_digest(module: str) -> str:
    """The digest of a loaded module's file when this process has first read it."""
    attributes, loaded = _attributes(module), sys.modules.get(module)
    spec = attributes.get("__spec__")
    known = _FIRST.get(module)
    if known is None or known[0] is not loaded or known[1] is not spec:
        known = _FIRST[module] = loaded, spec, _digest(attributes["__file__"])
    return known[2]


def _digest(file: str) -> str:
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    except OSError:
        return "unreadable"
