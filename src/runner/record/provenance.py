"""Where a run comes from: code, versions, machine and command."""

import contextlib
import os
import platform
import shlex
import socket
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from runner.record.cpu import cpu
from runner.record.secrets import scrub, scrub_command
from runner.settings import (
    FACT,
    MACHINE,
    NUMBERS,
    PROGRAM,
    RECORD,
    ROUNDING,
    Affects,
    setting,
    settings_of,
)

# Distributions that a run is made of, and what they affect. Others that it has loaded
# are recorded too.
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

# Of the environment: what may change the numbers of a program, or the program.
_VARIABLES = (
    "JAX_*", "NVIDIA_TF32_OVERRIDE", "TF_CUDNN_*", "CUBLAS_*", "LIBTPU_*",
    "ONEDNN_*", "DNNL_*",  # of convolutions on CPU
    "NCCL_ALGO", "NCCL_PROTO",  # in which order GPUs add up
)  # fmt: skip
# JAX's options that do the same, wherever they were set.
_JAX_OPTIONS = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_threefry_partitionable",
)
# Such options of JAX and flax whose usual values are left out.
_UNUSUAL = {
    "jax": {
        "jax_allow_f16_reductions": True,
        "jax_exec_time_optimization_effort": 0.0,
        "jax_high_dynamic_range_gumbel": False,
        "jax_random_seed_offset": 0,
        "jax_softmax_custom_jvp": False,
    },
    "flax": {"flax_fix_rng_separator": False, "flax_preserve_adopted_names": False},
}
# Variables that say where a run is, what it is shown as, or what other facts say.
_OF_MACHINE = (
    "JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_NUM_CPU_DEVICES", "JAX_*CACHE*",
    "JAX_*LOG*", "JAX_TRACEBACK*", "JAX_COORDINATOR*", "JAX_*PROCESS*",
    "JAX_LOCAL_DEVICE*",
)  # fmt: skip


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
    runner_git: dict[str, Any] | None = setting(
        PROGRAM, decides=(f"{FACT}runner_files",), label="runner"
    )
    runner_files: str | None = setting(PROGRAM, label="runner's files")
    git: dict[str, Any] | None = setting(
        PROGRAM, decides=(f"{FACT}module_digests.*",), label="your code"
    )
    module_digests: dict[str, str] = setting(PROGRAM)
    python: str = setting(PROGRAM, label="python")
    packages: dict[str, str | None] = setting(PROGRAM)
    backend: str = setting(PROGRAM | ROUNDING, label="backend")
    devices: list[str] = setting(PROGRAM | ROUNDING, label="devices")
    xla_flags: str = setting(PROGRAM | ROUNDING, label="XLA_FLAGS")
    environment: dict[str, str] = setting(PROGRAM | ROUNDING, absent="not set")
    device_count: int = setting(RECORD)  # follows from devices
    platform: str = setting(MACHINE | ROUNDING, label="machine")
    cpu: str = setting(MACHINE | ROUNDING, label="CPU")
    cpu_count: int | None = setting(MACHINE | ROUNDING, label="CPUs")
    hostname: str = setting(MACHINE, label="host")
    executable: str = setting(MACHINE)
    directions: dict[str, str | None] = setting(RECORD)  # of the metrics
    program_key: str = setting(RECORD)  # follows from the configuration and the above
    members: int = setting(RECORD | ROUNDING, label="runs side by side")
    choice: dict[str, Any] = setting(RECORD)  # decides train.convolution and members
    changes: list[str] = setting(NUMBERS | ROUNDING, label="changes on the way")
    restarts: list[dict[str, Any]] = setting(RECORD)
    wandb_id: str = setting(RECORD)
    replay_of: str = setting(RECORD)
    optimizer_probe: list[float] | None = setting(NUMBERS)
    optax: str = setting(RECORD)  # whether it is the released one, as far as is known
    initial_parameters: str = setting(NUMBERS)
    init_from: dict[str, Any] = setting(NUMBERS, absent="none")
    data_digest: dict[str, Any] = setting(NUMBERS, absent="none")
    in_training_too: dict[str, int] = setting(RECORD)  # of each split; from the data
    data_order: str = setting(NUMBERS)
    first_batch: str = setting(NUMBERS)


FACTS = dict(settings_of(Provenance))


def affects(name: str) -> Affects:
    """The effects of a fact, such as `python` or `packages.jax`.

    An unknown one, recorded by another version, may affect anything.
    """
    section, _, rest = name.partition(".")
    if section == "packages" and rest in PACKAGES:
        return PACKAGES[rest]
    if section == "environment" and _matches(rest, _OF_MACHINE):
        return MACHINE
    return FACTS[section].affects if section in FACTS else PROGRAM | NUMBERS


def provenance(
    code: dict[str, Any], devices: int, program_key: str, choice: dict[str, Any]
) -> dict[str, Any]:
    """The facts needed to find this run's code and machine again, without secrets.

    Args:
      code: of this process, from `Code`.
      devices: how many of JAX's devices are in use.
      program_key: names the compiled program; equal in runs that share it.
      choice: between ways to train it that round differently.
    """
    import flax  # here, since reading runs needs none
    import jax

    variables = {k: v for k, v in os.environ.items() if _matches(k, _VARIABLES)}
    options = {name: str(getattr(jax.config, name, None)) for name in _JAX_OPTIONS}
    for library in (jax, flax):
        for name, usual in _UNUSUAL[library.__name__].items():
            if (value := getattr(library.config, name, usual)) != usual:
                options[name] = str(value)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": scrub_command(sys.argv),
        "pid": os.getpid(),
        **code,
        "platform": platform.platform(),
        "hostname": socket.gethostname(),
        "cpu": " ".join(cpu()).strip(),
        "cpu_count": _cpus(),
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()[:devices]],
        "device_count": devices,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        # As text, since compare takes a null for what isn't known.
        "environment": scrub(variables) | options,
        "program_key": program_key,
        "choice": choice,
        "members": 1,  # of its population; a sweep may make it more
    }


def _cpus() -> int | None:
    """How many threads XLA has on CPU, among which it splits sums.

    They are the CPUs that this process may use, which taskset or Slurm may restrict, or
    as many as one of two variables says (XLA's DefaultThreadPoolSize).
    """
    for name in ("PJRT_NPROC", "NPROC"):
        with contextlib.suppress(KeyError, ValueError):
            return int(os.environ[name])
    own = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(own(0)) if own else os.cpu_count()


def command_line() -> str:
    """The command that this process was given, without secrets, for a shell."""
    path, *arguments = sys.argv[0], *scrub_command(sys.argv)[1:]
    *folders, name = Path(path).parts or ("",)
    if name != "__main__.py" or "runner" not in folders:  # a script, or a user's own
        return shlex.join([name, *arguments])
    package = folders[len(folders) - 1 - folders[::-1].index("runner") :]
    return shlex.join(["python", "-m", ".".join(package), *arguments])


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
