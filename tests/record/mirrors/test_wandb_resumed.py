"""Of a run that is resumed W&B has each row once."""

import pytest

from helpers.fake_wandb import FakeWandb
from helpers.wandb_process import run, summary
from helpers.wandb_run import wandb_run
from runner.record.files import read_metrics
from runner.record.mirrors.wandb_reader import wandb_files

RESUMED = """
def part(first, last, kept=None, rest="", **given):
    global recorder
    with recorder_of(".", kept=kept, id="abc", **given) as recorder:
        for step in range(first, last + 1):
            recorder.row({"step": step, "train/loss": 1 / step})
        exec(rest)

from runner.record.recorder import Kept
from runner.errors import Preempted
kept = Kept(Path("metrics.jsonl"), 8, 0.0)
"""
KILLED = "wait_for_start(); time.sleep(1.5); os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    "ending, code",
    [
        pytest.param(KILLED, -9, marks=pytest.mark.nightly),
        ("raise Preempted(15)", 75),
    ],
)
def test_resumed_offline_each_row_is_there_once(tmp_path, ending, code):
    run(tmp_path, RESUMED + f"part(1, 12, rest={ending!r})", expect=code)
    run(tmp_path, RESUMED + "part(9, 20, kept)")
    runs = [wandb_run(path) for path in wandb_files(tmp_path)]
    assert [run["id"] for run in runs] == ["abc", "abc"]
    history = sorted(
        (row["step"], row["train/loss"]) for r in runs for row in r["history"]
    )
    assert history == [(step, 1 / step) for step in range(1, 21)]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 20
    assert summary(tmp_path)["status"] == "finished"


@pytest.mark.parametrize(
    "ending, code",
    [
        (KILLED, -9),
        pytest.param("raise Preempted(15)", 75, marks=pytest.mark.nightly),
    ],
)
def test_resumed_online_it_is_one_run_with_each_row_once(tmp_path, ending, code):
    begun = RESUMED + f"part(1, 12, rest={ending!r}, mode='online')"
    with FakeWandb() as server:
        run(tmp_path, begun, expect=code, **server.env())
        run(tmp_path, RESUMED + "part(9, 20, kept, mode='online')", **server.env())
    assert not server.unknown
    (only,) = server.runs.values()
    assert [row["step"] for row in only.history] == [*range(1, 21)]
    assert (only.exit_code, only.was_preempted) == (0, code == 75)
