"""Tries what can happen to W&B, and what it costs a run: `python scripts/faults.py`.

A run of a few seconds is recorded while W&B's server, its processes or its disk fail.
Its folder must have all rows, its end must come at most 10 seconds later than without
the fault, and `python -m runner.mirror` must then give a server that works each row
once. The server is tests/helpers/fake_wandb.py.

  python scripts/faults.py [NAME ...]
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from helpers.fake_wandb import FakeWandb  # noqa: E402
from runner.record.files import read_metrics, read_object  # noqa: E402

ROWS, MOST_SECONDS, SLACK_SECONDS = 200, 10.0, 3.0
RUN = f"""
import sys, time
from pathlib import Path
from runner.record.mirrors import helper
from runner.record.recorder import Recorder

trackers = {{"wandb": {{"_target_": "runner.record.mirrors.wandb.WandbTracker"}}}}
config = {{"wandb": {{"mode": "online", "project": "runner"}}}}
recorder = Recorder(Path("run"), config=config, provenance={{"wandb_id": "faulty"}},
                    directions={{"loss": "min"}}, trackers=trackers,
                    total_steps={ROWS}, quiet=False)
begun = time.monotonic()
with recorder:
    for step in range(1, {ROWS} + 1):
        recorder.row({{"step": step, "train/loss": 1 / step}})
        time.sleep(0.02)
        if step == {ROWS} // 2:
            print("helper", helper._helpers[-1].process.pid, flush=True)
    trained = time.monotonic()
helper._helpers[-1]._close()
print("waited", time.monotonic() - trained, flush=True)
"""


class Fault(NamedTuple):
    """What goes wrong.

    Attributes:
      start: before the run begins.
      middle: when half of its rows are there; gets the pid of the helper process.
      env: variables of the run.
    """

    start: Callable[[FakeWandb], Any] = lambda server: None
    middle: Callable[[FakeWandb, int], Any] = lambda server, pid: None
    env: Mapping[str, str | None] = MappingProxyType({})


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
    "folder read-only": Fault(env={"WANDB_DIR": "/proc/none"}),
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


def tried(fault: Fault, folder: Path, full: Path | None) -> list[str]:
    """What is wrong with a run that meets `fault`."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    own |= {"PYTHONPATH": str(ROOT / "src"), "WANDB_ERROR_REPORTING": "false"}
    with FakeWandb() as server:
        port = server.url.rpartition(":")[2]
        env = own | server.env()
        for name, value in fault.env.items():
            env.pop(name, None)
            if value is not None:
                env[name] = value.format(port=port, full=full)
        fault.start(server)
        process = subprocess.Popen(
            [sys.executable, "-c", RUN],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr").open("w"),
            text=True,
        )
        assert process.stdout is not None
        waited = None
        for line in process.stdout:
            word, value = line.split()
            if word == "helper":
                fault.middle(server, int(value))
            else:
                waited = float(value)
        status = process.wait()
        said = (folder / "stderr").read_text()
        rows = read_metrics(folder / "run" / "metrics.jsonl")
        wrong = [f"exit status {status}"] if status else []
        if [row["step"] for row in rows] != [*range(1, ROWS + 1)]:
            wrong.append(f"{len(rows)} rows in the folder")
        if read_object(folder / "run" / "summary.json")["status"] != "finished":
            wrong.append("its summary isn't finished")
        if waited is None or waited > MOST_SECONDS + SLACK_SECONDS:
            wrong.append(f"waited {waited} s")
        arrived = "faulty" in server.runs and len(server.runs["faulty"].history) == ROWS
        claims = "\nW&B           http" in said
        if claims and not arrived:
            wrong.append("it names a page that lacks rows")
        vars(server).update(down=False, status=None, delay=0.0, body=None)
        server.fail = lambda operation: None
        command = [sys.executable, "-m", "runner.mirror", "run", "wandb=online"]
        for _ in range(2):
            done = subprocess.run(
                command,
                cwd=folder,
                env=own | server.env(),
                capture_output=True,
                text=True,
            )
            if done.returncode:
                wrong.append(f"runner.mirror: {done.stdout}{done.stderr}")
        history = server.runs["faulty"].history if "faulty" in server.runs else []
        if [{k: row[k] for k in rows[0]} for row in history] != rows:
            wrong.append(f"{len(history)} rows on the server in the end")
        took = "?" if waited is None else f"{waited:.1f}"
        print(f"  waited {took} s; {said.strip().splitlines()[-1] if said else ''}")
        return wrong


def main() -> int:
    failed = 0
    with full_disk() as full:
        for name in sys.argv[1:] or FAULTS:
            if name == "folder full" and full is None:
                print(f"{name}: not tried: no disk can be mounted here", flush=True)
                continue
            with tempfile.TemporaryDirectory() as folder:
                wrong = tried(FAULTS[name], Path(folder), full)
            print(f"{name}: {'; '.join(wrong) or 'ok'}", flush=True)
            failed += bool(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
