"""sweep.json: taken up, guarded, and never half-written."""

import errno
import json
import os
from pathlib import Path

import pytest

from runner.errors import ConfigError, Unwritable
from runner.sweep import ledger as ledgers
from runner.sweep.ledger import Ledger

BASE = {"seed": 0, "train": {"epochs": 3, "steps": None}, "optimizer": {"b1": 0.9}}


def entry(name="a", state="pending"):
    return {
        "name": name,
        "folder": name,
        "overrides": [],
        "state": state,
        "result": None,
    }


def written(folder):
    return json.loads((folder / "sweep.json").read_text())


def test_what_was_running_is_pending_again(tmp_path):
    with Ledger(tmp_path, BASE, ["seed"]) as ledger:
        for name in ("a", "b", "c"):
            ledger.add(name, entry(name))
        ledger.set("a", "done", 0.5)
        ledger.set("b", "running")
        ledger.set("c", "failed")
    with Ledger(tmp_path, BASE, ["seed"]) as ledger:
        states = {key: job["state"] for key, job in ledger.jobs.items()}
        assert states == {"a": "done", "b": "pending", "c": "failed"}
        assert ledger.add("a", entry("other"))["result"] == 0.5


def test_a_killed_process_leaves_running_jobs_that_are_taken_up(tmp_path):
    ledger = Ledger(tmp_path, BASE, ["seed"]).__enter__()
    ledger.add("a", entry(state="running"))
    ledger.write()
    ledger._lock.close()  # as the system does
    assert ledgers.unfinished(tmp_path, BASE, ["a"])
    assert not ledgers.unfinished(tmp_path, BASE, ["a", "b"])
    assert not ledgers.unfinished(tmp_path, BASE | {"seed": 1}, ["a"])
    with Ledger(tmp_path, BASE, ["seed"]) as again:
        assert again.jobs["a"]["state"] == "pending"


def test_a_variable_that_has_changed_is_another_base(tmp_path, monkeypatch):
    """`${oc.env:NAME}` is the same text, whatever it stands for."""
    base = BASE | {"optimizer": {"b1": "${oc.decode:${oc.env:B1,0.9}}"}}
    monkeypatch.setenv("B1", "0.8")
    with Ledger(tmp_path, base, ["seed"]) as ledger:
        ledger.add("a", entry())
    assert ledgers.unfinished(tmp_path, base, ["a"])
    monkeypatch.setenv("B1", "0.7")
    assert not ledgers.unfinished(tmp_path, base, ["a"])
    with pytest.raises(ConfigError, match=r"a sweep with environment\.B1=\w+, now"):
        Ledger(tmp_path, base, ["seed"]).__enter__()
    with Ledger(tmp_path / "other", base, ["optimizer.b1"]):  # which each job sets
        monkeypatch.delenv("B1")
    with Ledger(tmp_path / "other", base, ["optimizer.b1"]):
        pass


def test_a_sweep_may_grow_in_a_key_that_read_a_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("B1", "0.8")
    with Ledger(tmp_path, BASE | {"optimizer": {"b1": "${oc.env:B1}"}}, ["seed"]):
        pass
    with Ledger(tmp_path, BASE, ["optimizer.b1"]):
        pass


def test_a_sweep_without_the_digests_of_variables_goes_on(tmp_path):
    base = BASE | {"optimizer": {"b1": "${oc.env:B1,0.9}"}}
    (tmp_path / "sweep.json").write_text(ledger_of(base=base))
    with Ledger(tmp_path, base, ["seed"]):
        pass


def test_a_nan_is_a_result(tmp_path):
    with Ledger(tmp_path, BASE, []) as ledger:
        ledger.add("a", entry())
        ledger.set("a", "done", float("nan"))
    assert written(tmp_path)["jobs"]["a"]["result"] == "NaN"


def test_a_second_process_is_refused(tmp_path):
    with Ledger(tmp_path, BASE, []):
        with pytest.raises(ConfigError, match="another process"):
            Ledger(tmp_path, BASE, []).__enter__()
    with Ledger(tmp_path, BASE, []):
        pass


def test_another_base_is_refused_but_for_swept_keys(tmp_path):
    with Ledger(tmp_path, BASE, ["optimizer"]):
        pass
    other = BASE | {"optimizer": {"b1": 0.5}}
    with Ledger(tmp_path, other, []):  # swept once
        pass
    with pytest.raises(
        ConfigError, match=r"train\.epochs=3, now 4\. .*hydra\.sweep\.dir"
    ):
        Ledger(tmp_path, BASE | {"train": {"epochs": 4, "steps": None}}, []).__enter__()
    with Ledger(tmp_path, BASE | {"seed": 1}, ["seed"]):
        pass


def ledger_of(**changed):
    return json.dumps({"base": BASE, "swept": ["seed"], "jobs": {}} | changed)


def row_of(**changed):
    return ledger_of(jobs={"a": entry() | changed})


WRONG = (
    "", "[]", "{", "3", '{"jobs": {}}', "\x00", "[" * 100_000, None, ledger_of(base=[]),
    ledger_of(swept={}), ledger_of(swept=[3]), ledger_of(jobs=[]),
    ledger_of(jobs={"a": []}), ledger_of(jobs={"a": {"folder": "a"}}),
    row_of(name=3), row_of(folder=None), row_of(overrides={}), row_of(overrides=[1]),
    row_of(state="over"), ledger_of(jobs={"a": entry(), "b": entry()}),
)  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_ledger_that_cant_be_read_is_named(tmp_path, text):
    path = tmp_path / "sweep.json"
    path.mkdir() if text is None else path.write_text(text)
    with pytest.raises(ConfigError, match="can't be read as a sweep's ledger"):
        Ledger(tmp_path, BASE, []).__enter__()
    assert not ledgers.unfinished(tmp_path, BASE, [])


@pytest.mark.parametrize(
    "folder", ["../foreign", "{}/foreign", "link", ".", "a/..", ""]
)
def test_a_folder_that_isnt_the_sweeps_is_refused(tmp_path, folder):
    """With checkpoint.resume=never it would be deleted."""
    sweep, foreign = tmp_path / "sweep", tmp_path / "foreign"
    sweep.mkdir()
    foreign.mkdir()
    (sweep / "link").symlink_to(foreign)
    (sweep / "sweep.json").write_text(row_of(folder=folder.format(tmp_path)))
    with pytest.raises(ConfigError, match=r"sweep\.json can't .* must lie within"):
        Ledger(sweep, BASE, ["seed"]).__enter__()


def test_a_full_disk_is_told_at_the_end(tmp_path, monkeypatch):
    """A ledger that can't be written holds up no training."""

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(Unwritable, match=r"sweep\.json can't .*No space.* safe in the"):
        with Ledger(tmp_path, BASE, []) as ledger:
            ledger.add("a", entry())
            ledger.write()
            monkeypatch.setattr(Path, "write_bytes", full)
            monkeypatch.setattr(ledger, "_next_write", 0.0)
            ledger.set("a", "done", 0.5)
    assert written(tmp_path)["jobs"]["a"]["state"] == "pending"


def test_secrets_stay_out(tmp_path):
    with Ledger(tmp_path, BASE | {"api_key": "hunter2"}, []) as ledger:
        ledger.add("a", entry() | {"overrides": ["data.password=hunter2"]})
    assert "hunter2" not in (tmp_path / "sweep.json").read_text()
