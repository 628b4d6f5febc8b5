"""How rows and facts are compared with the recorded ones."""

import contextlib

import pytest

from runner.record.conditions import changed
from runner.replay.rows import Differs, RecordEnds, Rows, relative


def test_rows():
    nan = float("nan")
    old = [{"step": 1, "a": nan}, {"step": 2, "a": 0.0}]
    rows = Rows(old, True, None, [])
    rows.compare({"step": 1, "a": nan, "time/x": 3})
    with pytest.raises(Differs, match=r"step 2, a was 0\.0 and is -0\.0"):
        rows.compare({"step": 2, "a": -0.0})
    with pytest.raises(Differs, match="step 2 was recorded, but is not logged now"):
        rows.end()
    rows = Rows(old, False, 0.1, [])
    with pytest.raises(Differs, match=r"a was nan and is not logged\. Also.*: b"):
        rows.compare({"step": 1, "b": 1.0})
    with pytest.raises(Differs, match="step was 1 and is 2"):
        rows.compare({"step": 2, "a": nan})
    rows.compare({"step": 1, "a": nan})
    with pytest.raises(RecordEnds):
        rows.compare({"step": 2, "a": 0.0})
    assert relative(1.0, 0.9) == pytest.approx(0.1)
    assert relative(nan, 1.0) == relative(float("inf"), 1.0) == float("inf")
    assert relative(nan, nan) == relative(float("inf"), float("inf")) == 0


@pytest.mark.parametrize(("tolerance", "equal"), [(None, False), (0.1, True)])
def test_a_probe_counts_where_all_bits_do(tolerance, equal):
    old, new = ({"step": 1, "probe/h/counts": [n, 2.0]} for n in (1.0, 3.0))
    rows = Rows([old], True, tolerance, ["h"])
    with (
        contextlib.nullcontext() if equal else pytest.raises(Differs, match="h/counts")
    ):
        rows.compare(new)
    with pytest.raises(Differs, match="not logged"):
        Rows([old], True, tolerance, ["h"]).compare({"step": 1})


def test_what_decides_between_bits_and_tolerance():
    then = {
        "packages": {"jax": "1", "wandb": "1"},
        "platform": "Linux-6.1-x86_64-with-glibc2.36",
        "runner_git": {"commit": "a" * 40, "dirty": True},
        "devices": ["cpu", "cpu"],
        "hostname": "a",
        "cpu": "AMD EPYC 0a1b2c3d",
    }
    now = then | {
        "packages": {"jax": "1", "wandb": "2"},
        "platform": "Linux-6.9-x86_64-with-glibc2.41",
        "hostname": "b",
    }
    facts = changed(then, now)
    assert [f.name for f in facts] == ["runner", "wandb", "host"]
    assert not any(f.decides for f in facts)
    other = now | {"platform": "macOS-14.5-arm64-arm-64bit", "devices": ["cpu"]}
    other["cpu"] = "arm 4e5f6a7b"
    facts = changed(then, other)
    assert [f for f in facts if f.decides] == [
        ("devices", "2 x cpu", "1 x cpu"),
        ("machine", "Linux x86_64", "macOS arm64"),
        ("CPU", "AMD EPYC 0a1b2c3d", "arm 4e5f6a7b"),
    ]
    assert all(f.recorded == "not recorded" for f in changed({}, now))


def test_a_run_that_was_resumed_with_other_probes():
    """Neither has what the other's probes record."""
    rows = Rows([{"step": 1, "a": 0.5, "probe/old/x": 1.0}], True, None, ["new"])
    rows.compare({"step": 1, "a": 0.5, "probe/new/y": 2.0})
    assert rows.count == 1
