"""The W&B mirror of a run.

The settings below were measured with wandb 0.31 and are checked by
tests/record/mirrors/test_wandb.py.
"""

import contextlib
import importlib
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from runner.record.directions import FIRST_EDITION, better
from runner.record.files import STATE, lock
from runner.record.mirrors.tracker import Source, Tracker, tested
from runner.record.mirrors.wandb_fields import fields, wanted_mode, with_variables
from runner.record.mirrors.wandb_reader import extent, extents
from runner.record.secrets import error_line, scrub_message

# WANDB_<NAME IN CAPITALS> overrides each.
_CLIENT = {
    "init_timeout": 20.0,
    "finish_timeout": 60.0,  # W&B's own default waits forever for a dead server
    "x_transaction_log_flush_interval": 1.0,  # a kill loses W&B's default of 15 s
    "console": "off",  # capturing supports one run per process, we may have many
    "x_disable_meta": True,  # would record the command line with its secrets
    "disable_git": True,
    "disable_code": True,
    "x_save_requirements": False,
}
_ANOTHER_SECONDS = 100.0  # for which a killed trainer's mirror may still write
_READ_BYTES = 4 << 20  # of a local file that is read once more at its end

# One start at a time: the fallback to offline closes W&B's process, which runs that
# started meanwhile would share. One failure is enough for the process, so that a sweep
# of 100 jobs doesn't wait 100 times for the same dead server.
_starting = threading.RLock()
_server_failed = threading.Event()
_core = 0  # counts the processes of W&B


class WandbTracker(Tracker):
    """One W&B run, which is continued by its id. WANDB_* variables override its fields.

    A server that can't be reached costs nothing: the run is then kept offline.
    """

    label = "W&B"
    package = "wandb"
    # One thread of Python's at a time writes rows, and packed runs end together.
    processes = 2

    def __init__(self, source: Source):
        super().__init__(source)
        self._fields = with_variables(fields(source))
        self._root = Path(self._fields["dir"]) / "wandb"
        self._run: Any = None
        self._lock: IO[str] | None = None
        self._core: int | None = None  # whose processes it uses
        self._rows = self._last = 0  # how many this one has written, and up to where
        self._over: int | None = None  # the exit code of the local run, if it has one

    @classmethod
    def load(cls) -> None:
        import wandb

        # The start of a first run imports this, of which it needs nothing.
        with contextlib.suppress(ImportError):  # it is private, and may move
            importlib.import_module("wandb.sdk.launch.inputs.internal")
        _silence()
        wandb.setup()  # starts W&B's own process

    @classmethod
    def is_wanted(cls, config: Mapping[str, Any]) -> bool:
        return wanted_mode(config) != "disabled"

    def open(self) -> int:
        self._lock = _locked(self._root / f".{self._fields['id']}.lock")
        with _starting:
            wanted = wanted_mode(self.source.config)
            if wanted != "offline" and not _server_failed.is_set():
                try:
                    return self._open(wanted)
                except Exception as error:
                    message = f"W&B {wanted} start failed: {error_line(error)}"
                    print(f"{message} (continuing offline)", file=sys.stderr)
                    _server_failed.set()
                    # Frees the run's id, which the failed start still holds.
                    _teardown(_core)
            if wanted != "offline" and not self.source.trainer:
                self.problem = "the server can't be reached"
            return self._open("offline")

    def _open(self, mode: str) -> int:
        self._core = _core
        if mode == "offline":
            has, self._over, where = extents(self._root, self._fields["id"])
            self.where = f"wandb sync {where}"
            if self._over is None:
                self._init(mode)
            return has
        self._init(mode)
        if not self._run.resumed:
            return -1
        # W&B ends a history with a row of its own.
        return min(self._run.summary.get("step", -1), self._run.starting_step - 1)

    def _init(self, mode: str) -> None:
        trainer = self.source.trainer
        stats = {"x_stats_pid": trainer} if trainer else {"x_disable_stats": True}
        config = {**self.source.config, "provenance": dict(self.source.provenance)}
        run = begin(mode, self._fields, config, **stats)
        run.define_metric("*", step_metric="step")
        self._run, self._defined = run, {"step"}
        self.where = f"wandb sync {run.settings.sync_dir}"
        if not run.offline:
            self.where = run.url
            print(f"W&B: {run.url}", file=sys.stderr)

    def row(self, row: Mapping[str, Any]) -> None:
        run = self._continued()
        directions = self.source.provenance.get("directions", FIRST_EDITION)
        for name in row.keys() - self._defined:
            # Its summary is to keep a metric's best value as well as its last one.
            if sign := better(name, directions):
                best = "max" if sign > 0 else "min"
                run.define_metric(name, step_metric="step", summary=f"{best},last")
        self._defined |= row.keys()
        run.log(dict(row), step=row["step"], commit=True)
        self._rows, self._last = self._rows + 1, row["step"]

    def file(self, path: Path, step: int) -> None:
        if self._run is not None:  # else it was over, with this file
            self._run.save(str(path), base_path=self.source.folder, policy="now")

    def _continued(self) -> Any:
        if self._run is None:  # it was over, and the folder has more
            with _starting:
                self._init("offline")
        return self._run

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        if self._run is None and self._over == exit_code:  # all was there already
            self._core = None
            return
        run = self._continued()
        run.summary.update(_facts(summary))
        if summary["status"] == "preempted":
            run.mark_preempting()
        try:
            self._add_files()
        except Exception as error:
            self.problem = f"files are missing: {error_line(error)}"
        run.finish(exit_code=exit_code)
        self._core = None
        if run.offline:
            self._check_file(Path(run.settings.sync_file))
        else:
            self._check_server(summary)

    def _add_files(self) -> None:
        console = self.source.folder / "runner.log"
        if console.is_file():
            shown = Path(self._run.dir) / "output.log"
            shown.write_text(scrub_message(console.read_text(errors="replace")))
            self._run.save(str(shown), base_path=self._run.dir, policy="now")
        if self.source.config.get("wandb", {}).get("log_model"):
            import wandb

            state = self.source.folder / STATE
            if state.is_file():  # as it is once a run has finished
                model = wandb.Artifact(f"model-{self._fields['id']}", type="model")
                model.add_file(str(state))
                log_artifact(self._run, model, 20 if self.source.trainer else 600)

    def _check_file(self, file: Path) -> None:
        """Find out what a full disk has cost, of which W&B says nothing."""
        is_large = file.stat().st_size > _READ_BYTES
        # `run.finish` returns before the file is complete.
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            rows, _, over = extent(file, 1 << 16 if is_large else None)
            if over is not None and (is_large or rows >= self._rows):
                return
            time.sleep(0.05)
        raise OSError(f"{file} lacks rows")

    def _check_server(self, summary: Mapping[str, Any]) -> None:
        """Ask the server what it has: it may have answered all, and kept nothing."""
        import wandb

        steps = max(self._last, summary.get("steps") or 0)
        has = -1
        for seconds in (0, 0.5, 1):
            time.sleep(seconds)
            try:
                has = wandb.Api(timeout=10).run(self._run.path).lastHistoryStep
            except Exception as error:
                self.problem = (
                    f"the server doesn't say what it has: {error_line(error)}"
                )
                return
            if has >= steps:
                return
        self.problem = f"the server has the rows up to step {max(has, 0)} of {steps}"

    def close(self) -> None:
        if self._lock:
            self._lock.close()
        if self._core is not None:  # after an error, which may be that it broke
            _teardown(self._core)


def begin(
    mode: str, fields: Mapping[str, Any], config: Mapping[str, Any], **client: Any
) -> Any:
    """W&B's run with these `fields`: see `with_variables`."""
    import wandb

    _silence()
    client |= {
        k: v for k, v in _CLIENT.items() if f"WANDB_{k.upper()}" not in os.environ
    }
    return wandb.init(
        mode=mode,  # pyright: ignore[reportArgumentType]
        config=dict(config),
        reinit="create_new",
        resume=None if "WANDB_RESUME" in os.environ else "allow",
        settings=wandb.Settings(**client),
        **fields,
    )


def _silence() -> None:
    """We say where everything is, and W&B nothing of itself to its makers.

    That would ask the network for an offline run too. W&B reads this as it starts.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


def log_artifact(run: Any, artifact: Any, seconds: float) -> None:
    """Log an artifact, and wait for its upload; W&B itself says nothing of failures."""
    logged = run.log_artifact(artifact)
    if not run.offline:
        logged.wait(seconds)


def _facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that W&B's own summary, the last value of each metric, lacks."""
    known = ("final", "best", "steps", "exit_code")
    facts = {k: v for k, v in summary.items() if k not in known}
    best = {f"best/{k}": v["value"] for k, v in summary.get("best", {}).items()}
    return facts | best | tested(summary)


def _locked(path: Path) -> IO[str] | None:
    """The file, locked by this process alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    begun = time.monotonic()
    while True:
        try:
            lock(file)
            return file
        except BlockingIOError:
            if time.monotonic() - begun > _ANOTHER_SECONDS:
                file.close()
                raise
            time.sleep(0.05)


def _teardown(core: int) -> None:
    """Close the process of W&B, if that is still number `core`."""
    global _core
    with _starting:
        if core != _core:
            return
        _core += 1
        with contextlib.suppress(Exception):  # that it is broken is already reported
            import wandb

            wandb.teardown()
