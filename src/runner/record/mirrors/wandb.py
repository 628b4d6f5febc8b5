"""The W&B mirror of a run: best effort, in a thread of its own.

Nothing that happens to W&B stops training or loses a row, because the rows are in the
run folder before they come here. The settings below were measured with wandb 0.31
and are checked by tests/record/mirrors/test_wandb.py.
"""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from runner.record.files import lock, to_json
from runner.record.secrets import scrub, scrub_message


class WandbFields(NamedTuple):
    """The fields of a W&B run. WANDB_* environment variables override each field.

    `mode` is offline, online or disabled. Null leaves a field to W&B, except `dir`:
    the folder that gets W&B's `wandb` folder, by default the run's own. `resumed`:
    continue the run `id`. Its earlier rows are then logged again, before the new ones;
    those that W&B has are skipped.
    """

    mode: str
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None
    dir: Path | None = None
    id: str | None = None
    resumed: bool = False


_VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "name": "WANDB_NAME",
    "tags": "WANDB_TAGS",
    "notes": "WANDB_NOTES",
    "dir": "WANDB_DIR",
    "id": "WANDB_RUN_ID",
}

# WANDB_<NAME IN CAPITALS> overrides each.
_CLIENT = {
    "init_timeout": 20.0,
    "finish_timeout": 60.0,  # W&B's own default waits forever for a dead server
    "x_transaction_log_flush_interval": 1.0,  # a kill loses W&B's default of 15 s
    "console": "off",  # capturing supports one run per process, we may have many
    "silent": True,  # the summary table says where everything is
    "x_disable_meta": True,  # would record the command line with its secrets
    "disable_git": True,
    "disable_code": True,
    "x_save_requirements": False,
}

# One start at a time: the fallback to offline closes W&B's process, which runs that
# started meanwhile would share. One failure is enough for the process, so that a sweep
# of 100 jobs doesn't wait 100 times for the same dead server.
_starting = threading.Lock()
_server_failed = threading.Event()


class WandbRun:
    """One W&B run. `start` and `log` only queue; a thread of its own does the work.

    After `finish`, `mode` is the mode it ran in ("disabled" if it never started),
    `folder` is W&B's own folder of the run and `url` its page.
    """

    def __init__(self, settings: WandbFields):
        self._settings = settings
        self._wanted = wanted_mode(settings)
        self._rows: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._run: Any = None
        self._has_reported = False
        self._has = -1  # W&B has the rows up to this step
        self._lock: IO[str] | None = None
        self.mode = "disabled"
        self.folder: Path | None = None
        self.url: str | None = None

    def start(
        self, config: Mapping[str, Any], started: Callable[[], None] = lambda: None
    ) -> None:
        """Begin the run in the background. `config` is logged without its secrets.

        `started` is called, in the background, when the run has started or failed to.
        """
        if self._wanted == "disabled":
            return
        # A daemon: a server that hangs must never keep the process from its exit.
        self._thread = threading.Thread(
            target=self._work,
            args=(to_json(scrub(config)), started),
            name="runner-wandb",
            daemon=True,
        )
        self._thread.start()

    def log(self, row: Mapping[str, Any]) -> None:
        """Queue a row. The caller must not change it afterwards."""
        if self._thread:
            self._rows.put(row)

    def finish(self, exit_code: int, summary: Mapping[str, Any]) -> None:
        """Write what is queued and end the run; `exit_code` 0 means it went well.

        Waits as long as the timeouts of W&B itself allow, and a few seconds.
        """
        if not self._thread:
            return
        self._rows.put((exit_code, to_json(summary)))
        limit = finish_limit()
        self._thread.join(limit)
        if limit and self._thread.is_alive():
            self._report(f"not finished after {limit:.0f} s; continuing without it")

    def _work(self, config: dict[str, Any], started: Callable[[], None]) -> None:
        with _starting:
            self._run = self._start_one(config)
        started()
        while True:
            item = self._rows.get()
            if isinstance(item, tuple):
                break
            if item.get("step", 0) <= self._has:
                continue
            self._try("logging failed", lambda row=item: self._run.log(row))
        self._try("finishing failed", lambda: self._finish_one(*item))
        if self._lock:
            self._lock.close()

    def _start_one(self, config: dict[str, Any]) -> Any:
        first = "offline" if _server_failed.is_set() else self._wanted
        # Offline twice is useful too: the process of W&B may have died since.
        for mode in (first, "offline"):
            try:
                run = self._init(mode, config)
            except Exception as error:
                self._report(f"{mode} start failed: {_one_line(error)}")
                if mode != "offline":
                    _server_failed.set()
                # Frees the run's id, which the failed start still holds, and the
                # process of W&B if that broke.
                _teardown()
                continue
            self.mode = "offline" if run.offline else "online"
            self.folder = Path(run.settings.sync_dir)
            self.url = None if run.offline else run.url
            return run
        return None

    def _init(self, mode: str, config: dict[str, Any]) -> Any:
        import wandb

        fields = scrub({"wandb": self._settings._asdict()})["wandb"]
        del fields["mode"]
        resumed = fields.pop("resumed")
        for field, variable in _VARIABLES.items():
            given = os.environ.get(variable)
            # An argument would override the variable, so it isn't given.
            if given or not fields[field]:
                fields[field] = None
            if given and field != "dir":
                os.environ[variable] = scrub({"wandb": {field: given}})["wandb"][field]
        identity = os.environ.get("WANDB_RUN_ID") or fields["id"]
        allow = resumed or "WANDB_RUN_ID" in os.environ
        client = {k: v for k, v in _CLIENT.items() if _variable(k) not in os.environ}
        root = Path(os.environ.get("WANDB_DIR") or fields["dir"] or ".")
        if "WANDB_DIR" not in os.environ:
            # W&B warns of a root that doesn't exist yet.
            root.mkdir(parents=True, exist_ok=True)
        if identity and not self._lock:
            # A killed trainer's mirror may still be writing its last rows.
            self._lock = _locked(root / "wandb" / f".{identity}.lock", finish_limit())
        if resumed:
            self._has = _last_step(root, identity)
        run = wandb.init(
            mode=mode,  # pyright: ignore[reportArgumentType]
            config=config,
            reinit="create_new",
            resume="allow" if allow and "WANDB_RESUME" not in os.environ else None,
            settings=wandb.Settings(**client),
            **fields,
        )
        if resumed and not run.offline:
            # From the server, which may have more or fewer rows than are here.
            self._has = run.summary.get("step", -1) if run.resumed else -1
        run.define_metric("*", step_metric="step")
        if not run.offline:
            print(f"W&B: {run.url}", file=sys.stderr)
        return run

    def _finish_one(self, exit_code: int, summary: dict[str, Any]) -> None:
        self._run.summary.update(summary)
        if summary.get("status") == "preempted":
            self._run.mark_preempting()
        self._run.finish(exit_code=exit_code)
        _wait_for_exit_record(Path(self._run.settings.sync_file))

    def _try(self, what: str, action: Any) -> None:
        if self._run is None:
            return
        try:
            action()
        except Exception as error:
            self._run = None
            self._report(f"{what}: {_one_line(error)}")
            if isinstance(error, OSError):
                _teardown()  # its process is gone, and the next run needs one

    def _report(self, what: str) -> None:
        if not self._has_reported:
            self._has_reported = True
            print(f"W&B {what} (the run folder has everything)", file=sys.stderr)


def _locked(path: Path, seconds: float | None) -> IO[str] | None:
    """The file, locked by this process alone; None after `seconds` of waiting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    begun = time.monotonic()
    while True:
        try:
            lock(file)
            return file
        except BlockingIOError:
            if seconds is not None and time.monotonic() - begun > seconds:
                file.close()
                return None
            time.sleep(0.05)


def _last_step(root: Path, identity: str | None) -> int:
    """The last step in W&B's local files of a run; -1 if there is none."""
    from runner.record.mirrors.wandb_reader import read_run

    files = root.glob(f"wandb/*run-*-{identity}/run-{identity}.wandb")
    rows = [row for file in files for row in read_run(file)["history"]]
    return max((int(row["step"]) for row in rows), default=-1)


def wanted_mode(settings: WandbFields) -> str:
    """offline, online or disabled; the user's own variable wins."""
    return os.environ.get("WANDB_MODE") or settings.mode


def finish_limit() -> float | None:
    """The seconds to wait for the end of a run; None: as long as it takes."""
    seconds = _timeout("finish_timeout")  # 0 is W&B's value for no limit
    return _timeout("init_timeout") + seconds + 10 if seconds else None


def _teardown() -> None:
    try:
        import wandb

        wandb.teardown()
    except Exception:  # that it is broken is already reported
        pass


def _wait_for_exit_record(path: Path, seconds: float = 1.0) -> None:
    """Wait for the file's last rows and its end: `run.finish` returns before that.

    The last record is field 18 (`exit`) of W&B's protobuf. If the format changes, only
    the bounded wait is lost.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with path.open("rb") as file:
            file.seek(max(os.path.getsize(path) - 64, 0))
            tail = file.read()
        start = tail.rfind(b"\x92\x01")
        if start >= 0 and tail[start + 2 : start + 3] == bytes([len(tail) - start - 3]):
            return
        time.sleep(0.01)


def _variable(setting: str) -> str:
    return f"WANDB_{setting.upper()}"


def _timeout(setting: str) -> float:
    try:
        return float(os.environ[_variable(setting)])
    except (KeyError, ValueError):
        return float(_CLIENT[setting])


def _one_line(error: Exception) -> str:
    text = scrub_message(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:200]}"
