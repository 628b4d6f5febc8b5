"""Where a run comes from: code, versions, machine and command."""

import functools
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.record.secrets import scrub_command

PACKAGES = (
    "jax-experiment-runner",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "orbax-checkpoint",
    "hydra-core",
    "omegaconf",
    "wandb",
    "tensorflow-datasets",
)
_GIT_SECONDS = 5.0  # a hung network file system must not hold up the run


def provenance(
    *,
    backend: str,
    devices: list[str],
    program_key: str,
    argv: list[str],
    folder: Path,
) -> dict[str, Any]:
    """What is needed to find this run's code and machine again.

    Args:
      backend: jax.default_backend(). Passed in, like `devices`, so that reading runs
        needs no JAX.
      devices: the kind of each device in use, such as ["cpu", "cpu"].
      program_key: names the compiled program; equal in runs that share it.
      argv: the command line; secrets in it are redacted.
      folder: the working folder at the start, whose repository is the user's own.

    Never raises: what can't be found out, such as git outside a repository, is null.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": scrub_command(argv),
        "folder": str(folder),
        "pid": os.getpid(),
        "git": _git_state_once(folder),
        "runner_git": _runner_git(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "hostname": socket.gethostname(),
        "cpu_count": os.cpu_count(),
        "backend": backend,
        "devices": devices,
        "device_count": len(devices),
        "program_key": program_key,
        "members": 1,  # of its population; a sweep may make it more
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


# Once a process: what is loaded stays as it is, and a sweep has many runs.
_git_state_once = functools.cache(git_state)


def _runner_git() -> dict[str, Any] | None:
    """runner's own repository, if it is a checkout.

    An installed package may lie inside somebody else's repository (a .venv in a
    project), whose commit says nothing about runner.
    """
    root = Path(__file__).parents[3]
    is_checkout = (root / "src" / "runner").is_dir() and (root / ".git").exists()
    return _git_state_once(root) if is_checkout else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            # Reading must not take the lock that a commit beside it needs.
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


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
