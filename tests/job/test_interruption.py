"""A signal ends a run after a step, saved, and nothing of it is lost."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from helpers.at_night import one_in
from helpers.resuming import arrays_of, record, rows_of
from runner import signals
from runner.job import restore
from runner.job.interruption import Interruption, Preempted
from runner.record.recorder import Recorder

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def sent_at(patch, step, *numbers):
    """Send signals to this process when it writes the row of `step`."""
    original = Recorder.row

    def row(self, row):
        if row["step"] == step:
            for number in numbers:
                os.kill(os.getpid(), number)
        original(self, row)

    patch.setattr(Recorder, "row", row)


@pytest.mark.parametrize("number", one_in(2, SIGNALS))
def test_saved_marked_and_taken_up(ran, tmp_path, number):
    before = [signal.getsignal(s) for s in SIGNALS]
    whole = ran(tmp_path / "whole")
    folder = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted) as stopped:
        sent_at(patch, 17, number)
        ran(folder)
    assert stopped.value.code == (130 if number == signal.SIGINT else 75)
    assert str(stopped.value) == number.name
    assert record(folder, "summary")["status"] == "preempted"
    last = rows_of(folder)[-1]["step"]
    assert restore.steps(folder / "checkpoints") == [last]
    assert 17 <= last < 30  # calls are of 4 steps, and one is under way
    assert ran(folder) == whole
    assert arrays_of(folder, 40) == arrays_of(tmp_path / "whole", 40)
    (restart,) = record(folder, "provenance")["restarts"]
    assert (restart["step"], restart["after"]) == (last, "preempted")
    assert [signal.getsignal(s) for s in SIGNALS] == before


def test_nothing_is_saved_where_checkpoints_are_off(ran, tmp_path):
    off = ("checkpoint.every_minutes=null", "checkpoint.last=false")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted):
        sent_at(patch, 17, signal.SIGTERM)
        ran(tmp_path, *off)
    assert not (tmp_path / "checkpoints").exists()
    assert record(tmp_path, "summary")["status"] == "preempted"


def test_a_second_ctrl_c_leaves_at_once(ran, tmp_path):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        sent_at(patch, 17, signal.SIGINT, signal.SIGINT)
        ran(tmp_path)
    assert record(tmp_path, "summary")["status"] == "interrupted"
    assert rows_of(tmp_path)[-1]["step"] == 16


def test_the_handler_before_is_called_when_all_is_saved():
    called = []
    before = signal.signal(signal.SIGUSR2, lambda *given: called.append(given))
    try:
        with Interruption() as interruption:
            assert interruption.stopping() is None
            os.kill(os.getpid(), signal.SIGUSR2)
            stopped = interruption.stopping()
            assert stopped is not None and not called
        stopped.forward()
        stopped.forward()
        assert called == [(signal.SIGUSR2, None)]
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_signal_that_comes_just_before_training_begins_is_not_lost(monkeypatch):
    """The thread that ends the process may look only once training has begun."""
    monkeypatch.setattr(signals, "_is_watching", True)
    monkeypatch.setattr(signals, "_trainings", [])
    interruption = Interruption()
    interruption._note(signal.SIGUSR2, None)
    assert str(interruption.stopping()) == "SIGUSR2"


def test_in_another_thread_no_handler_is_set():
    before = [signal.getsignal(s) for s in SIGNALS]
    seen = []

    def work():
        with Interruption() as interruption:
            seen.append([signal.getsignal(s) for s in SIGNALS])
            assert interruption.stopping() is None

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("arguments", one_in(2, [["-m", "seed=0,1"], []]))
def test_the_exit_status_asks_for_a_requeue(tmp_path, arguments):
    flag = "hydra.sweep.dir=run" if arguments else "hydra.run.dir=run"
    command = [sys.executable, "-m", "runner", *arguments, flag, "train.epochs=null",
               "train.steps=1000000", "wandb=disabled", "verify=false",
               "framework=jax"]  # fmt: skip
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while process.poll() is None:
            found = list(tmp_path.glob("run/**/metrics.jsonl"))
            if found and all(path.stat().st_size for path in found):
                break
            time.sleep(0.05)
        process.terminate()
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, told
    assert "SIGTERM: ending after this step" in told and "same command" in told
    for path in tmp_path.glob("run/**/summary.json"):
        assert record(path.parent, "summary")["status"] == "preempted"
