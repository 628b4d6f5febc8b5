"""Tables that are run: what was planted is named, and published numbers come out."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml

from runner.audit.__main__ import main
from runner.audit.audit import audit
from runner.audit.table import find, read

ROOT = Path(__file__).parents[2]
# A few steps of a small problem, for tables whose truth is known.
SMALL = [
    "experiment=deepobs/quadratic_deep", "optimizer=adam", "train.epochs=3",
    "optimizer.learning_rate=0.04", "wandb=disabled", "verify=false", "mesh=single",
]  # fmt: skip
OTHERS = {"order": ["data.reshuffle=true"], "memory": ["optimizer.b2=0.9"]}


@pytest.fixture
def audited(tmp_path, folders):
    """Audit a table; returns the status and the JSON."""

    def audited(settings, cells, seeds, source="made up", **others):
        name = f"table{len(list(tmp_path.iterdir()))}"
        cache = f"compilation_cache={folders['xla']}"
        table = {"source": source, "settings": [*settings, cache], "seeds": seeds}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(table | {"cells": cells} | others))
        status = main([str(path), "--out", str(tmp_path / "out")])
        return status, json.loads((tmp_path / "out" / "audit.json").read_text())

    return audited


def cells_of(*epochs, **values):
    metric = "validation/loss"
    return [
        {"name": f"epoch {e}", "metric": metric, "epoch": e, "mean": 0.0, "n": 4}
        | {k: v[i] for k, v in values.items()}
        for i, e in enumerate(epochs)
    ]


DECOUPLED = [
    "optimizer._target_=helpers.user_targets.adam_decoupled",
    "+optimizer.weight_decay=0.5",
]


@pytest.mark.nightly  # by day a factor of the docs' example is named
@pytest.mark.parametrize(
    ("base", "factor", "truth", "other"),
    [
        ([], "epsilon", "optimizer.eps=3.0", "optimizer.eps=1e-7"),
        (
            DECOUPLED, "decay form", "optimizer._target_=helpers.user_targets.adam_l2",
            "optimizer.weight_decay=0.4",
        ),
    ],
)  # fmt: skip
def test_a_planted_factor_is_named(audited, base, factor, truth, other, tmp_path):
    settings = [*SMALL, *base]
    key = truth.partition("=")[0]
    planted = [s for s in settings if not s.startswith(key)] + [truth]
    status, found = audited(planted, cells_of(1, 3), [5, 6, 7, 8])
    assert status == 3
    published = {
        "mean": [c["our_mean"] for c in found["cells"]],
        "std": [c["our_std"] for c in found["cells"]],
    }
    cells = cells_of(1, 3, **published)
    factors = {factor: [other, truth]} | OTHERS
    status, found = audited(settings, cells, [1, 2, 3, 4], open=factors)
    assert status == 3 and "differs" in {c["outcome"] for c in found["cells"]}
    assert found["explains_most"] == factor
    assert found["open"][0]["value"] == [truth]
    assert found["open"][0]["reproduced"] == 2
    assert found["open"][0]["explained"] > 0.9
    page = (tmp_path / "out" / "audit.html").read_text()
    assert f"{factor[0].upper()}{factor[1:]} alone explains most" in page


def test_runs_of_an_earlier_audit_are_whole_and_of_this_code(audited, tmp_path):
    settings = [*SMALL, "train.epochs=1"]
    cells = cells_of(1)
    audited(settings, cells, [1])
    (metrics,) = (tmp_path / "out" / "runs").glob("*/metrics.jsonl")
    own = metrics.read_text()
    metrics.write_text(own.replace("1", "2", 1))
    assert audited(settings, cells, [1])[0] == 1
    metrics.write_text(own)
    (metrics.parent / "checksums.txt").unlink()
    provenance = metrics.with_name("provenance.json")
    facts = json.loads(provenance.read_text())
    facts["module_digests"] = {__name__: "another"}
    provenance.write_text(json.dumps(facts))
    _, found = audited(settings, cells, [1])
    assert found["findings"][-1].startswith(f"some runs are older than {__name__}")


def changed(tmp_path, change):
    """The shipped table of quadratic_deep, changed."""
    table = yaml.safe_load(find("deepobs_quadratic_deep").read_text())
    change(table)
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump(table))
    return read(path)


def test_the_first_epochs_of_quadratic_deep(tmp_path, folders):
    """Of two optimizers; at night there is the whole table."""

    def shorter(table):
        table["cells"] = [
            c
            for c in table["cells"]
            if c["epoch"] < 100 and "momentum" not in c["name"]
        ]
        cache = f"compilation_cache={folders['xla']}"
        table["settings"] += ["train.epochs=10", "mesh=single", "verify=false", cache]

    found = audit(changed(tmp_path, shorter), tmp_path / "out")
    assert len(found.verdicts) == 4 and found.runs == 20
    assert {v.outcome for v in found.verdicts} == {"reproduced"}
    for verdict in found.verdicts:
        assert verdict.cell.std is not None
        assert 0 < (verdict.high - verdict.low) / 2 < 3 * verdict.cell.std
    files = [*(tmp_path / "out" / "runs").glob("*/metrics.jsonl")]
    times = {path: path.stat().st_mtime_ns for path in files}
    again = audit(found.table, tmp_path / "out")
    assert again == found
    assert len(times) == 20
    assert times == {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.nightly
def test_quadratic_deep_and_that_its_order_matters(tmp_path):
    """The whole table, as shipped and with fresh orders."""
    found = audit(read(find("deepobs_quadratic_deep")), tmp_path / "one")
    assert len(found.verdicts) == 9
    assert found.reproduced and not found.explanations

    def fresh(table):
        table["settings"].append("data.reshuffle=true")

    found = audit(changed(tmp_path, fresh), tmp_path / "fresh")
    differ = [v.cell.name for v in found.verdicts if v.outcome == "differs"]
    assert "momentum after 100 epochs" in differ
    assert found.best and found.best.candidate.factor == "order of the batches"
    assert found.best.candidate.overrides == ("data.reshuffle=false",)
    assert found.best.reproduced == 9


def test_the_example_of_the_docs(audited, tmp_path):
    page = (ROOT / "docs" / "audit.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    table = yaml.safe_load(text)
    table["settings"] += ["wandb=disabled", "verify=false", "mesh=single"]
    status, found = audited(**table)
    assert status == 3
    finding, _, named = found["findings"]
    assert finding == "1 of 3 cells are reproduced"
    assert "1 of 3 cells reproduced, and that with `optimizer.eps=1e-2` all" in page
    assert named.startswith("epsilon of Adam alone explains most: with optimizer.eps")
    assert ", 3 of 3 cells are reproduced" in named
    shown = (tmp_path / "out" / "audit.html").read_text()
    assert "Epsilon of Adam alone explains most" in shown
    assert shown.count("<td") == shown.count("data-label=")  # which a phone shows


def test_a_run_is_read_at_its_own_steps(audited):
    """An open factor may change how many steps an epoch has."""
    cells = cells_of(1) + [
        {"name": "end", "metric": "validation/loss", "mean": 1e9, "std": 1.0, "n": 4}
    ]
    factors = {"batches": ["data.batch_size=256"]}
    settings = [*SMALL, "train.epochs=2"]
    _, found = audited(settings, cells, [1, 2], open=factors)
    assert [c["outcome"] for c in found["cells"]] == ["differs"] * 2
    (factor,) = found["open"]
    assert factor["why"] == "" and factor["explained"] != "-Infinity"


@pytest.mark.nightly
def test_a_cell_whose_runs_fail_is_not_run_and_says_why(audited, capsys):
    diverging = ["optimizer.learning_rate=1e30", "optimizer=sgd"]
    cells = cells_of(1) + [
        {"name": "diverges", "overrides": diverging, "metric": "validation/loss"}
        | {"mean": 1.0, "std": 1e9, "n": 2}
    ]
    cells[0] |= {"std": 1e9}
    status, found = audited(SMALL, cells, [1, 2])
    good, bad = found["cells"]
    assert status == 3 and good["outcome"] == "reproduced"
    assert bad["outcome"] == "not run" and "2 of 2 runs failed: " in bad["why"]
    assert "not run: diverges" in capsys.readouterr().out
    assert math.isfinite(good["difference"])
