"""Watching tasks: what is killed, cancelled, lost sight of, or submitted unseen."""

import stat

import pytest

from runner.cluster import watch as watching
from runner.cluster.engine import ArrayTaskState, EngineUnreachable
from runner.cluster.events import Events
from runner.cluster.plan import Plan
from runner.cluster.slurm import Slurm
from runner.cluster.watch import Watch
from runner.errors import ConfigError
from runner.settings import ClusterSettings

RUNNING = ArrayTaskState("RUNNING", "", "n1", over=False)
FAILED = ArrayTaskState("FAILED", "NonZeroExitCode", "n1", over=True)
CANCELLED = ArrayTaskState("CANCELLED", "", "n1", over=True)


class Scripted:
    """An engine whose tasks do what they are told; an attempt has a list of states."""

    name = "Slurm"
    grace_seconds = 0.0
    at_once = None

    def __init__(self, plan, *attempts):
        self._plan = plan
        self._attempts = list(attempts)
        self._scripts = {}
        self.cancelled = []
        self.submitted = 0

    def submit(self, calls, name):
        ids = []
        for _call, (_folder, number, *_) in calls:
            self.submitted += 1
            task = str(self.submitted)
            self._scripts[task] = [number, *self._attempts.pop(0)]
            ids.append(task)
        return ids

    def find(self, name, count):
        return None

    def states(self, ids):
        found = {}
        for task in ids:
            number, *script = self._scripts[task]
            state = script[0]
            if len(script) > 1:
                self._scripts[task] = [number, *script[1:]]
            if state is None:
                continue  # forgotten
            if isinstance(state, Exception):
                raise state
            if callable(state):
                state = state(Events(self._plan.events(number), task))
            found[task] = state
        return found

    def cancel(self, ids):
        self.cancelled += ids

    def log(self, task):
        return self._plan.logs / task

    def script(self, count):
        return ""


class Heard:
    """A listener that notes what it hears."""

    def __init__(self):
        self.said = []
        self.events = []
        self.why = None

    def event(self, task, event):
        self.events.append(event["event"])

    def state(self, task, state):
        pass

    def say(self, text):
        self.said.append(text)

    def killed(self, task, text):
        self.said.append(text)

    def unfinished(self, task):
        return int("done" not in self.events)

    def lost(self, task, why):
        self.why = why

    def poll(self):
        pass


def done(events):
    events.done("a", 1.0)
    events.end()
    return ArrayTaskState("COMPLETED", "", "n1", over=True)


@pytest.fixture
def watched(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "EVENTS_SECONDS", 0.001)
    monkeypatch.setattr(watching, "ASK_SECONDS", 0.002)

    def watched(*attempts, retries=2):
        plan = Plan(tmp_path)
        plan.add(["a"], "payload.pkl")
        engine, heard = Scripted(plan, *attempts), Heard()
        Watch(engine, plan, retries, heard).run()
        return engine, heard, Plan(tmp_path).tasks[0]

    return watched


def test_a_task_that_is_done(watched):
    engine, heard, task = watched([RUNNING, done])
    assert engine.submitted == 1 and heard.said == [] and heard.why is None
    assert task.over == "done" and heard.events == ["attempt", "done"]


@pytest.mark.parametrize("end", [FAILED, None])
def test_a_killed_task_is_tried_again(watched, end):
    """Also where Slurm has forgotten it and accounting doesn't answer: `None`."""
    _, heard, task = watched([RUNNING, end], [RUNNING, done])
    assert task.ids == ["1", "2"] and task.over == "done"
    (told,) = heard.said
    assert "task 1 was killed" in told and "1 of 3" in told


def test_but_not_for_ever(watched):
    engine, heard, task = watched([FAILED], [FAILED], retries=1)
    assert engine.submitted == 2 and task.over == "failed"
    assert "killed 2 times" in str(heard.why)


def test_what_a_person_has_cancelled_is_left_alone(watched):
    engine, heard, task = watched([RUNNING, CANCELLED])
    assert engine.submitted == 1 and task.over == "cancelled"
    assert "was cancelled" in str(heard.why)


def test_a_queue_that_does_not_answer_is_waited_for(watched):
    unreachable = EngineUnreachable("connection refused")
    engine, heard, task = watched([RUNNING, unreachable, unreachable, done])
    assert engine.submitted == 1 and task.over == "done"
    assert ["doesn't answer" in said for said in heard.said] == [True, False]


def test_a_task_that_cannot_run_is_not_tried_again(watched):
    def broken(events):
        events.broken(ImportError("no module named jax"))
        return FAILED

    engine, heard, task = watched([broken])
    assert engine.submitted == 1 and task.over == "failed"
    assert "no module named jax" in heard.said[0]


def test_a_task_that_ends_without_a_word_of_its_job_is_not_done(watched):
    def ended(events):
        events.end()
        return FAILED

    _, heard, task = watched([ended])
    assert task.over == "failed" and "without reporting" in str(heard.why)


def test_a_requeued_task_goes_on(watched):
    def requeued(events):
        events.requeued()
        return ArrayTaskState("PENDING", "BeginTime", "", over=False)

    _, heard, task = watched([RUNNING, requeued, RUNNING, done])
    assert task.ids == ["1"] and "requeued" in heard.events


def test_a_submission_that_nobody_could_note_is_found(tmp_path, monkeypatch):
    """The launcher was killed between Slurm's answer and its own note of it."""
    monkeypatch.setattr(watching, "EVENTS_SECONDS", 0.001)
    monkeypatch.setattr(watching, "ASK_SECONDS", 0.002)
    plan = Plan(tmp_path)
    task = plan.add(["a"], "payload.pkl")
    task.submitting = "abc", 3, 2
    plan.write()
    again = Plan(tmp_path)
    engine = Scripted(again)
    engine._scripts["7_2"] = [0, done]
    asked = []
    engine.find = lambda name, count: (
        asked.append((name, count)) or ["7_0", "7_1", "7_2"]
    )
    Watch(engine, again, 2, Heard()).run()
    assert asked == [("abc", 3)] and engine.submitted == 0
    assert again.tasks[0].ids == ["7_2"] and again.tasks[0].over == "done"


def test_nothing_is_submitted_while_that_can_not_be_known(tmp_path):
    plan = Plan(tmp_path)
    plan.add(["a"], "payload.pkl").submitting = "abc", 1, 0
    engine = Scripted(plan)

    def find(name, count):
        raise EngineUnreachable("connection refused")

    engine.find = find
    with pytest.raises(ConfigError, match="connection refused"):
        Watch(engine, plan, 2, Heard()).run()
    assert engine.submitted == 0


def test_what_was_never_submitted_is_not_planned(tmp_path):
    plan = Plan(tmp_path)
    plan.add(["a"], "payload.pkl")
    plan.write()
    assert Plan(tmp_path).tasks == []


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm whose commands are scripts: name to body."""

    def slurm(**commands):
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, body in {"sbatch": "", **commands}.items():
            path = folder / name
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        settings = ClusterSettings(
            engine="slurm", partition=None, account=None, qos=None, nodes=1, gpus=0,
            cpus=None, memory=None, time=60, sbatch={}, setup=[], array_parallelism=1,
            max_tasks=1, warning_seconds=1, retries=0, dry_run=False,
        )  # fmt: skip
        return Slurm(settings, tmp_path, "runner", 1)

    return slurm


FORGOTTEN = "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1"


def test_the_queue_is_asked_first(slurm):
    known = slurm(
        squeue="echo '12_0|PENDING|Priority|'; echo '12_1|RUNNING|None|n[1-2]'",
        sacct="exit 1",
    ).states(["12_0", "12_1"])
    assert str(known["12_0"]) == "pending (Priority)"
    assert str(known["12_1"]) == "running on n[1-2]"


def test_accounting_knows_what_the_queue_has_forgotten(slurm):
    known = slurm(squeue=FORGOTTEN, sacct="echo '12_0|CANCELLED by 0|n1'")
    assert known.states(["12_0"]) == {
        "12_0": ArrayTaskState("CANCELLED", "by 0", "n1", True)
    }


def test_without_accounting_it_is_just_gone(slurm):
    assert slurm(squeue=FORGOTTEN, sacct="exit 1").states(["12_0"]) == {}


def test_a_queue_that_fails_is_silent(slurm):
    broken = slurm(squeue="echo Unable to contact slurm controller >&2; exit 1")
    with pytest.raises(EngineUnreachable, match="Unable to contact"):
        broken.states(["12_0"])
