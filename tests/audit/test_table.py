"""A wrong table is one message, with the file and the key, before anything runs."""

import math

import pytest
import yaml

from runner.audit.__main__ import main
from runner.audit.runs import Done, measured, runner
from runner.audit.table import SHIPPED, find, read
from runner.errors import ConfigError

CELL = {"name": "a", "metric": "validation/loss", "mean": 1.5, "n": 4}
SETTINGS = [
    "data=linear_ae", "model=linear_autoencoder", "framework=jax", "mesh=single",
    "verify=false",
]  # fmt: skip
TABLE = {"source": "a paper", "settings": SETTINGS, "seeds": [1, 2], "cells": [CELL]}


@pytest.fixture
def write(tmp_path):
    def write(table):
        path = tmp_path / "table.yaml"
        text = table if isinstance(table, str) else yaml.safe_dump(table)
        path.write_text(text)
        return path

    return write


def with_cell(**changes):
    cell = {k: v for k, v in (CELL | changes).items() if v is not None}
    return TABLE | {"cells": [cell]}


# A table, and what the one message must say of it.
MISTAKEN = [
    ("a: [", "can't be read as a table"),
    ("seeds: [1]\nseeds: [2]", "duplicate key seeds"),
    ("[1]", "it must be a mapping with the keys source, settings"),
    ({}, "source must be given"),
    (TABLE | {"cell": []}, "cell: there are source,", "Did you mean 'cells'?"),
    (TABLE | {"source": 3}, "source=3 must be text"),
    (TABLE | {"seeds": 3}, "seeds=3 must be a list of whole numbers"),
    (TABLE | {"seeds": [-1]}, "seeds=[-1] must be", "from 0 to 2**32 - 1"),
    (TABLE | {"seeds": [1, 1]}, "has a seed twice"),
    (TABLE | {"cells": []}, "cells must be a list of at least one cell"),
    (TABLE | {"cells": [CELL, CELL]}, "cells[0].name=a: another cell"),
    (TABLE | {"settings": "x=1"}, "settings must be a list of overrides"),
    (TABLE | {"settings": ["x"]}, "settings: x must be an override, key=value"),
    (TABLE | {"settings": ["seed=1"]}, "seed=1: the seeds of all runs are in"),
    (TABLE | {"settings": ["hydra.sweep.dir=/"]}, "can't say where its"),
    (TABLE | {"settings": ["cluster=slurm"]}, "can't say where its"),
    (with_cell(mean=None), "cells[0].mean must be given"),
    (with_cell(mean="x"), "cells[0].mean=x must be a finite number"),
    (with_cell(mean=math.nan), "cells[0].mean=nan must be a finite number"),
    (with_cell(std=-1), "cells[0].std=-1 must be a finite number of at least 0"),
    (with_cell(spread=1), "cells[0].spread: there are", "std, or a standard error"),
    (with_cell(std=1, se=1), "cells[0] has both std and se"),
    (with_cell(std=1, n=1), "cells[0].std: a single run (n: 1) has none"),
    (with_cell(n=0), "cells[0].n=0 must be a number of runs, at least 1"),
    (with_cell(epoch=0), "cells[0].epoch=0 must be a whole number"),
    (with_cell(epoch=1, step=1), "cells[0] has both epoch and step"),
    (TABLE | {"open": [1]}, "open must be a mapping from factors"),
    (TABLE | {"open": {"eps": "x=1"}}, "open.eps must be a list of values"),
    (TABLE | {"open": {"eps": [3]}}, "open.eps[0]: 3 must be an override"),
    (TABLE | {"open": {"eps": {"value": []}}}, "Did you mean 'values'?"),
    (
        TABLE | {"open": {"eps": {"cells": ["b"], "values": ["x=1"]}}},
        "open.eps.cells: no cell is called b",
    ),
]
# What Hydra, the ranges, the model and the data say of it.
REFUSED = [
    (with_cell(overrides=["optimizer=adm"]), "cells[0]: optimizer=adm is not one of"),
    (with_cell(overrides=["optimizer.b9=1"]), "cells[0]: optimizer has no key 'b9'"),
    (with_cell(overrides=["optimizer.b1=2"]), "cells[0]: optimizer.b1=2 must be at"),
    (with_cell(overrides=["optimizer=sgd,adam"]), "one value, not several"),
    (with_cell(overrides=["data.batch_size=10000"]), "cells[0]: data.batch_size=10000"),
    (with_cell(metric="validation/los"), "cells[0]: metric=validation/los is not a"),
    (with_cell(epoch=21), "cells[0]: epoch=21 is beyond the end", "step 1280"),
    (with_cell(step=17), "cells[0]: step=17: validation/loss is measured every 64"),
    (with_cell(step=17, metric="train/loss"), "train/loss is measured every 10 steps"),
    (with_cell(step=64, metric="test/loss"), "measured only at the end of a run"),
    (TABLE | {"open": {"eps": ["optimizer.epsilon=1"]}}, "open.eps[0]: optimizer has"),
    (TABLE | {"open": {"b": ["seeds.init=-1"]}}, "open.b[0]: seeds.init=-1 must be"),
]


@pytest.mark.parametrize(("table", "said"), [(t, said) for t, *said in MISTAKEN])
def test_what_the_file_alone_shows(write, table, said):
    path = write(table)
    with pytest.raises(ConfigError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    for part in said:
        assert part in message


@pytest.mark.parametrize(("table", "said"), [(t, said) for t, *said in REFUSED])
def test_what_the_configuration_shows(write, table, said, tmp_path, capsys):
    path = write(table)
    assert main([str(path), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {path}: ")
    for part in said:
        assert part in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("cell", "step"),
    [
        ({"metric": "train/loss", "step": 1}, 1),
        ({"metric": "train/grad_norm", "step": 30}, 30),
        ({"metric": "time/steps_per_second", "step": 30}, 30),
        ({"epoch": 2}, 128),
        ({"metric": "test/loss"}, 1280),
    ],
)
def test_the_step_of_a_cell(write, tmp_path, cell, step):
    table = read(write(with_cell(**cell)))
    with runner(tmp_path / "runs", None) as runs:
        assert runs.steps(table) == {"a": step}


def test_what_a_run_measured_for_a_cell(write, tmp_path):
    (cell,) = read(write(with_cell(epoch=2))).cells
    (tmp_path / "config.json").write_text('{"train": {"steps_per_epoch": 3}}')
    rows = tmp_path / "metrics.jsonl"
    rows.write_text('{"step": 3, "validation/loss": 2.0}\n')
    assert measured(cell, Done(tmp_path, "")) == "it ended before step 6"
    rows.write_text('{"step": 6, "train/loss": 2.0}\n{"step": 9}\n')
    missing = "validation/loss isn't measured at its step 6"
    assert measured(cell, Done(tmp_path, "")) == missing
    rows.write_text('{"step": 6, "validation/loss": 2.5}\n{"step": 9}\n')
    assert measured(cell, Done(tmp_path, "")) == 2.5
    assert measured(cell, Done(tmp_path, "it failed")) == "it failed"


def test_a_test_split_needs_none_for_validation(write, tmp_path, folders):
    settings = [
        "data=digits", "data.splits.validation=null", "objective=train/loss",
        f"data.data_dir={folders['data']}", "mesh=single",
    ]  # fmt: skip
    cell = with_cell(metric="test/accuracy")
    table = read(write(cell | {"settings": settings}))
    with runner(tmp_path / "runs", None) as runs:
        assert runs.steps(table) == {"a": 440}


def test_a_standard_error_is_made_a_deviation(write):
    (cell,) = read(write(with_cell(se=0.5))).cells
    assert cell.std == 1.0
    (cell,) = read(write(with_cell(std="1e-3"))).cells  # as YAML 1.2 reads it
    assert cell.std == 0.001


def test_the_most_special_override_of_a_key_counts(write):
    table = read(
        write(
            with_cell(overrides=["a=2", "c=2"])
            | {"settings": ["a=1", "+b=1"], "open": {"b": [["b=3"]]}}
        )
    )
    (cell,), (candidate,) = table.cells, table.candidates
    assert table.overrides(cell) == ("a=2", "c=2", "+b=1")
    assert table.overrides(cell, candidate) == ("a=2", "c=2", "+b=3")


def test_shipped_tables_are_found_by_name():
    for path in SHIPPED.glob("*.yaml"):
        assert read(find(path.stem)).path == path
    with pytest.raises(ConfigError, match="Did you mean 'deepobs_quadratic_deep'"):
        find("deepobs_quadratic")
