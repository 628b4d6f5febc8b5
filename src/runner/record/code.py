"""The code of a run: repositories, versions, and the contents of modules."""

import contextlib
import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from runner.record.loaded import Loaded

_GIT_SECONDS = 5.0  # a hung network file system must not hold up the run


class Code:
    """Finds the facts about this process's code, in the background.

    Args:
      folder: the working folder at the start, whose repository is the user's own.
      packages: distributions whose versions are recorded in any case.

    Never raises: what can't be found out, such as git outside a repository, is null.
    """

    def __init__(self, folder: Path, packages: Iterable[str]):
        self._folder = folder
        self._packages = tuple(packages)
        pool = ThreadPoolExecutor(3, "runner-code")
        self._git = pool.submit(git_state, folder)
        self._runner = pool.submit(_of_runner)
        self._loaded = pool.submit(Loaded)
        pool.shutdown(wait=False)

    def facts(self) -> dict[str, Any]:
        """Those of now; more modules may be loaded later."""
        loaded = self._loaded.result()
        versions, digests = loaded.facts()
        wanted = {name: loaded.version(name) for name in self._packages}
        return {
            "folder": str(self._folder),
            "git": self._git.result(),
            **self._runner.result(),
            "python": platform.python_version(),
            "packages": wanted | versions,
            "module_digests": digests,
            "executable": sys.executable,
        }


def git_state(folder: Path) -> dict[str, Any] | None:
    """{"commit", "dirty"} of the repository around `folder`; null outside one.

    `commit` is null before the first one. `dirty` means changes in tracked files:
    untracked ones are mostly the outputs of runs.
    """
    if _git(folder, "rev-parse", "--show-toplevel") is None:
        return None
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


_ROOT = Path(__file__).parents[3]


def _of_runner() -> dict[str, Any]:
    """The commit of runner and a digest of its own files; null if it is installed.

    Its version says all then. An installed package may lie inside somebody else's
    repository (a .venv in a project), whose commit says nothing about runner.
    """
    found: dict[str, Any] = {"runner_git": None, "runner_files": None}
    if (_ROOT / "src" / "runner").is_dir() and (_ROOT / "pyproject.toml").exists():
        if (_ROOT / ".git").exists():
            found["runner_git"] = git_state(_ROOT)
        digest = hashlib.sha256()
        with contextlib.suppress(OSError):
            for path in sorted((_ROOT / "src").rglob("*.py")):
                digest.update(str(path.relative_to(_ROOT)).encode())
                digest.update(path.read_bytes())
            found["runner_files"] = digest.hexdigest()[:16]
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            # Reading must not take the lock that a concurrent commit needs.
            ["git", "--no-optional-locks", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
