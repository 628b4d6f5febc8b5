"""Where a run comes from: code, versions, machine and command."""

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.record.secrets import scrub_command
from runner.settings import (
    MACHINE,
    NUMBERS,
    PROGRAM,
    RECORD,
    ROUNDING,
    Affects,
    setting,
    settings_of,
)

# A run's package versions, and what they affect.
PACKAGES = {
    "jax-experiment-runner": PROGRAM,
    "jax": PROGRAM | ROUNDING,
    "jaxlib": PROGRAM | ROUNDING,
    "flax": PROGRAM | ROUNDING,
    "optax": PROGRAM | ROUNDING,
    "numpy": PROGRAM | ROUNDING,
    "orbax-checkpoint": PROGRAM,
    "hydra-core": PROGRAM,
    "omegaconf": PROGRAM,
    "wandb": PROGRAM,
    "tensorflow-datasets": PROGRAM,
}


@dataclass
class Provenance:
    """The facts in provenance.json. A replay shows those that have a label.

    If all that affect ROUNDING are equal, the same compiled program adds the same
    numbers in the same order.
    """

    started: str = setting(RECORD)
    command: list[str] = setting(RECORD)
    folder: str = setting(RECORD)
    pid: int = setting(RECORD)
    runner_git: dict[str, Any] | None = setting(PROGRAM, label="runner")
    git: dict[str, Any] | None = setting(PROGRAM, label="your code")
    python: str = setting(PROGRAM, label="python")
    packages: dict[str, str | None] = setting(PROGRAM, label="packages")
    backend: str = setting(PROGRAM | ROUNDING, label="backend")
    devices: list[str] = setting(PROGRAM | ROUNDING, label="devices")
    xla_flags: str = setting(PROGRAM | ROUNDING, label="XLA_FLAGS")
    device_count: int = setting(RECORD)  # follows from devices
    platform: str = setting(MACHINE | ROUNDING, label="machine")
    cpu_count: int | None = setting(MACHINE | ROUNDING, label="CPUs")
    hostname: str = setting(MACHINE, label="host")
    executable: str = setting(MACHINE)
    directions: dict[str, str | None] = setting(RECORD)  # of the metrics
    program_key: str = setting(RECORD)  # follows from the configuration and the above
    members: int = setting(RECORD | ROUNDING, label="runs side by side")
    changes: list[str] = setting(NUMBERS | ROUNDING, label="changes on the way")
    restarts: list[dict[str, Any]] = setting(RECORD)
    wandb_id: str = setting(RECORD)
    replay_of: str = setting(RECORD)
    optimizer_probe: list[float] | None = setting(NUMBERS)
    optax: str = setting(RECORD)  # whether it is the released one, as far as is known
    initial_parameters: str = setting(NUMBERS)
    data_order: str = setting(NUMBERS)


FACTS = dict(settings_of(Provenance))


def affects(name: str) -> Affects:
    """The effects of a fact, such as `python` or `packages.jax`.

    An unknown one, recorded by another version, may affect anything.
    """
    section, _, rest = name.partition(".")
    if section == "packages" and rest in PACKAGES:
        return PACKAGES[rest]
    return FACTS[section].affects if section in FACTS else PROGRAM | NUMBERS


_GIT_SECONDS = 5.0  # a hung network file system must not hold up the run


def code(folder: Path) -> dict[str, Any]:
    """The provenance that is fixed for a process, because code is loaded once.

    Args:
      folder: the working folder at the start, whose repository is the user's own.

    Never raises: what can't be found out, such as git outside a repository, is null.
    """
    return {
        "folder": str(folder),
        "git": git_state(folder),
        "runner_git": _runner_git(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "executable": sys.executable,
    }


def provenance(
    code: dict[str, Any],
    *,
    backend: str,
    devices: list[str],
    program_key: str,
    argv: list[str],
) -> dict[str, Any]:
    """The facts needed to find this run's code and machine again.

    Args:
      code: of this process, from the function of that name.
      backend: jax.default_backend(). Passed in, like `devices`, so that reading runs
        needs no JAX.
      devices: the kind of each device in use, such as ["cpu", "cpu"].
      program_key: names the compiled program; equal in runs that share it.
      argv: the command line; secrets in it are redacted.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": scrub_command(argv),
        "pid": os.getpid(),
        **code,
        "platform": platform.platform(),
        "hostname": socket.gethostname(),
        "cpu_count": os.cpu_count(),
        "backend": backend,
        "devices": devices,
        "device_count": len(devices),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "program_key": program_key,
        "members": 1,  # of its population; a sweep may make it more
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


def _runner_git() -> dict[str, Any] | None:
    """runner's own repository, if it is a checkout.

    An installed package may lie inside somebody else's repository (a .venv in a
    project), whose commit says nothing about runner.
    """
    root = Path(__file__).parents[3]
    is_checkout = (root / "src" / "runner").is_dir() and (root / ".git").exists()
    return git_state(root) if is_checkout else None


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


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
