"""Commands of the program, each in a process forked from one that has imported it all.

Imports take more than half of a short command. What happens during them, and how a
real interpreter ends, is tested by commands that are started as people start them.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

import jax

IMPORTED = (
    "runner.cli", "runner.job.run", "runner.sweep.sweep", "runner.frameworks.jax",
    "runner.frameworks.linen", "runner.frameworks.nnx", "runner.checks.verify",
)  # fmt: skip
_CONTEXT = multiprocessing.get_context("forkserver")


def python(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS`, as `subprocess.run` would have it, of `runner`.

    Args:
      arguments: `-m`, the module and its arguments.
      cwd: the folder that it runs in.
      env: all of its environment; by default this process's, with one device.
      timeout: in seconds.

    Raises:
      TimeoutExpired: it took longer, and was killed.
    """
    if env is None:
        env = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    _, module, *rest = arguments
    _start_server()
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _CONTEXT.Process(
            target=_command, args=(module, rest, str(cwd), dict(env), said)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        return subprocess.CompletedProcess(
            list(arguments), process.exitcode, *(path.read_text() for path in said)
        )


def _start_server() -> None:
    _CONTEXT.set_forkserver_preload([*IMPORTED])
    # JAX can't know that its backends aren't up in there.
    quiet = {"PYTHONWARNINGS": "ignore:os.fork() was called"}
    with patch.dict(os.environ, quiet):
        forkserver.ensure_running()


def _command(
    module: str, arguments: list[str], cwd: str, env: dict[str, str], said: list[Path]
) -> None:
    assert set(IMPORTED) <= set(sys.modules)
    for number, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    jax.config.update("jax_num_cpu_devices", int(env["JAX_NUM_CPU_DEVICES"]))
    sys.path[:0] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["", *arguments]
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
