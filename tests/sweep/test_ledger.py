"""sweep.json: taken up, guarded, and never half-written."""

import json

import pytest

from runner.errors import ConfigError
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


@pytest.mark.parametrize("text", ["", "[]", "{", '{"jobs": {}}'])
def test_a_ledger_that_cant_be_read_is_named(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(ConfigError, match="can't be read as a sweep's ledger"):
        Ledger(tmp_path, BASE, []).__enter__()
    assert not ledgers.unfinished(tmp_path, BASE, [])


def test_secrets_stay_out(tmp_path):
    with Ledger(tmp_path, BASE | {"api_key": "hunter2"}, []) as ledger:
        ledger.add("a", entry() | {"overrides": ["data.password=hunter2"]})
    assert "hunter2" not in (tmp_path / "sweep.json").read_text()
