"""Tries what can happen to W&B, and what it costs a run: `python scripts/faults.py`.

A run of a few seconds is recorded while W&B's server, its processes or its disk fail.
Its folder must have all rows, its end must come at most 10 seconds later than without
the fault, and `python -m runner.mirror` must then give a server that works each row
once. The server is tests/helpers/fake_wandb.py.

  python scripts/faults.py [--quick] [NAME ...]
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from helpers.fake_wandb import FakeWandb  # noqa: E402
from runner.record.files import read_metrics, read_object  # noqa: E402

MOST_SECONDS, SLACK_SECONDS = 10.0, 3.0
RUN = """
import atexit, sys, time
from pathlib import Path
from runner.record.mirrors import helper
from runner.record.recorder import Recorder

atexit.register(lambda: print("waited", time.monotonic() - trained, flush=True))
rows, helper._STALLED_SECONDS = int(sys.argv[1]), float(sys.argv[2])
trackers = {"wandb": {"_target_": "runner.record.mirrors.wandb.WandbTracker"}}
config = {"wandb": {"mode": "online", "project": "runner"}}
provenance = {"wandb_id": "faulty", "directions": {"loss": "min"}}
recorder = Recorder(Path("run"), config=config, provenance=provenance,
                    trackers=trackers, total_steps=rows, quiet=False)
with recorder:
    for step in range(1, rows + 1):
        recorder.row({"step": step, "train/loss": 1 / step})
        time.sleep(0.02)
        if step == rows // 2:
            print("helper", helper._helpers[-1].process.pid, flush=True)
    trained = time.monotonic()
"""


# In Python's processes it is an hour earlier from one moment to the next.
CLOCK = """
import time
now, begun = time.time, time.time()
time.time = lambda: now() - 3600 * (now() > begun + 1)
"""


class Effort(NamedTuple):
    """How much is tried.

    Attributes:
      rows: of the run, one every 20 ms.
      stalled: how long a helper that does nothing is waited for, in seconds.
      brings: whether the folder is mirrored to a good server afterwards, twice.
    """

    rows: int
    stalled: float
    brings: bool


WHOLE, QUICK = Effort(200, 10.0, True), Effort(40, 2.0, False)


class Fault(NamedTuple):
    """What goes wrong.

    Attributes:
      start: before the run begins.
      middle: when half of its rows are there; gets the pid of the helper process.
      env: variables of the run.
      says: what the run must say.
    """

    start: Callable[[FakeWandb], Any] = lambda server: None
    middle: Callable[[FakeWandb, int], Any] = lambda server, pid: None
    env: Mapping[str, str | None] = MappingProxyType({})
    says: str = ""


def given(**attributes: Any) -> Fault:
    return Fault(start=lambda server: vars(server).update(attributes))


def dies(server: FakeWandb, pid: int) -> None:
    server.down = True


def failing_for_a_while(server: FakeWandb, pid: int) -> None:
    import threading

    server.status = 500
    threading.Timer(20, lambda: vars(server).update(status=None)).start()


def kill_core(server: FakeWandb, pid: int) -> None:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().split()
            if fields[1] == "(wandb-core)" and fields[3] == str(pid):
                os.kill(int(fields[0]), signal.SIGKILL)


FAULTS = {
    "none": Fault(),
    "refused": Fault(env={"WANDB_BASE_URL": "http://127.0.0.1:9"}),
    "silent": given(delay=60.0),
    "500 for 20 s": Fault(middle=failing_for_a_while),
    "401": given(status=401),
    "403": given(status=403),
    "429": given(status=429),
    "404 on one endpoint": given(fail=lambda op: 404 if op == "file_stream" else None),
    "dies in mid-run": Fault(middle=dies),
    "back after the end": given(down=True),
    "2 s a response": given(delay=2.0),
    "garbage": given(body=b"\x00\xff no JSON"),
    "HTML": given(body=b"<html><body>Log in to the hotel's network</body></html>"),
    "TLS": Fault(env={"WANDB_BASE_URL": "https://127.0.0.1:{port}"}),
    "core killed": Fault(middle=kill_core),
    "helper killed": Fault(middle=lambda server, pid: os.kill(pid, signal.SIGKILL)),
    "helper stopped": Fault(middle=lambda server, pid: os.kill(pid, signal.SIGSTOP)),
    "folder full": Fault(env={"WANDB_DIR": "{full}"}),
    "folder full, offline": Fault(
        env={"WANDB_DIR": "{full}", "WANDB_MODE": "offline"}, says="incomplete"
    ),
    "folder read-only": Fault(env={"WANDB_DIR": "/proc/none"}),
    "clock": Fault(env={"PYTHONPATH": f"{{folder}}/clock:{ROOT / 'src'}"}),
    "no key": Fault(env={"WANDB_API_KEY": None}),
    "wrong key": Fault(env={"WANDB_API_KEY": "short"}),
}


@contextlib.contextmanager
def full_disk() -> Iterator[Path | None]:
    """A folder on a disk of 64 KiB; None where nobody may mount one."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True).returncode:
            yield None
            return
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def tried(
    fault: Fault, folder: Path, full: Path | None, effort: Effort
) -> tuple[list[str], str]:
    """What is wrong with a run that meets `fault`, and what it said."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    own |= {"PYTHONPATH": str(ROOT / "src")}
    (folder / "clock").mkdir()
    (folder / "clock" / "sitecustomize.py").write_text(CLOCK)
    with FakeWandb() as server:
        env = own | server.env()
        for name, value in fault.env.items():
            env.pop(name, None)
            if value is not None:
                port = server.url.rpartition(":")[2]
                env[name] = value.format(port=port, full=full, folder=folder)
        fault.start(server)
        status, waited = met(fault, folder, env, server, effort)
        said = (folder / "stderr").read_text()
        rows = read_metrics(folder / "run" / "metrics.jsonl")
        wrong = [f"exit status {status}"] if status else []
        if [row["step"] for row in rows] != [*range(1, effort.rows + 1)]:
            wrong.append(f"{len(rows)} rows in the folder")
        if read_object(folder / "run" / "summary.json")["status"] != "finished":
            wrong.append("its summary isn't finished")
        if waited > MOST_SECONDS + SLACK_SECONDS:
            wrong.append(f"waited {waited} s")
        history = server.runs["faulty"].history if "faulty" in server.runs else []
        if "\nW&B           http" in said and len(history) != effort.rows:
            wrong.append("it names a page that lacks rows")
        if fault.says not in said:
            wrong.append(f"it doesn't say {fault.says!r}")
        if effort.brings:
            vars(server).update(down=False, status=None, delay=0.0, body=None)
            server.fail = lambda operation: None
            wrong += brought(folder, own | server.env(), server, rows)
    last = said.strip().splitlines()[-1:] or [""]
    return wrong, f"waited {waited:.1f} s; {' '.join(last[0].split())}"


def met(
    fault: Fault, folder: Path, env: Mapping, server: FakeWandb, effort: Effort
) -> tuple[int, float]:
    """The exit status of a run that meets `fault`, and how long it waited then."""
    waited = float("inf")
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(effort.rows), str(effort.stalled)],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr").open("w"),
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        word, value = line.split()
        if word == "helper":
            fault.middle(server, int(value))
        else:
            waited = float(value)
    return process.wait(), waited


def brought(
    folder: Path, env: Mapping, server: FakeWandb, rows: list[dict[str, Any]]
) -> list[str]:
    """What is wrong with the server after runner.mirror has brought `rows` there."""
    wrong = []
    command = [sys.executable, "-m", "runner.mirror", "run", "wandb=online"]
    for _ in range(2):
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True
        )
        if done.returncode:
            wrong.append(f"runner.mirror: {done.stdout}{done.stderr}")
    history = server.runs["faulty"].history if "faulty" in server.runs else []
    if [{k: row[k] for k in rows[0]} for row in history] != rows:
        wrong.append(f"{len(history)} rows on the server in the end")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FAULTS))
    quick = "few rows, all faults at once, and nothing is brought afterwards"
    parser.add_argument("--quick", action="store_true", help=quick)
    options = parser.parse_args()
    names = options.names or [*FAULTS]
    failed = 0
    with full_disk() as full:

        def result(name: str) -> tuple[list[str], str]:
            if name == "folder full" and full is None:
                return [], "not tried: no disk can be mounted here"
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                effort = QUICK if options.quick else WHOLE
                return tried(FAULTS[name], Path(folder), full, effort)

        with ThreadPoolExecutor(len(names) if options.quick else 1) as pool:
            results = pool.map(result, names)
            for name, (wrong, said) in zip(names, results, strict=True):
                print(f"{name}: {'; '.join(wrong) or 'ok'} ({said})", flush=True)
                failed += bool(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
