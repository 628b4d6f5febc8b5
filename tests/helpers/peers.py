"""Processes that train one run, on loopback: two with two virtual devices each."""

import os
import socket
import subprocess
import sys

FAST = ("debug=tiny", "framework=jax", "model.hidden_sizes=[8]", "verify=false")


def started(folder, count, *overrides, each=None):
    """Start `count` processes of two; each one's `overrides`, `each` on top."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = []
    for i in range(count):
        own = [each[i]] if each else []
        command = [
            sys.executable, "-m", "runner", *FAST, *overrides, *own,
            "hydra.run.dir=run", f"distributed.coordinator_address={address}",
            "distributed.num_processes=2", f"distributed.process_id={i}",
        ]  # fmt: skip
        processes.append(
            subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes
