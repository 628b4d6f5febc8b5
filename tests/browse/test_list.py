"""The runs in folders, filtered and sorted."""

import pytest

from helpers import made_up_runs
from helpers.compare_runs import write_run
from runner.browse.list import listed, main
from runner.compare.load import tables
from runner.errors import ConfigError


@pytest.fixture
def runs():
    rates = (0.001, 0.01)
    return made_up_runs.sweep(rates=rates, seeds=2)


def names(found):
    return found["run"].to_list()


def test_what_varies_and_what_it_led_to(runs):
    found = listed(runs, (), None, ())
    assert found.columns == ["run", "status", "step", "seed", "optimizer",
                             "optimizer.learning_rate"]  # fmt: skip
    assert len(found) == 8 and set(found["step"]) == {40}


def test_the_objective_is_shown_once_it_is_recorded():
    record = made_up_runs.run("a", final=0.5)
    config = {**record.config, "objective": "validation/loss"}
    found = listed(tables([record._replace(config=config)]), (), None, ())
    assert found["final.validation/loss"].to_list() == [0.5]


def test_a_run_that_never_had_a_configuration_makes_nothing_vary():
    one, other, early = (made_up_runs.run(name, seed=s) for s, name in enumerate("abc"))
    early = early._replace(config={}, rows=[], summary={"status": "preempted"})
    found = listed(tables([one, other, early]), (), None, ())
    assert found.columns == ["run", "status", "step", "seed"]


def test_what_a_step_costs_is_no_setting_that_varies():
    records = [made_up_runs.run(name, model=name) for name in ("mlp", "cnn")]
    counted = [
        r._replace(summary={**r.summary, "flops_per_step": i})
        for i, r in enumerate(records)
    ]
    found = listed(tables(counted), (), None, ())
    assert found.columns == ["run", "status", "step", "model"]


def test_what_refers_to_a_setting_that_varies_is_not_shown_too():
    records = [made_up_runs.run(str(rate), rate=rate) for rate in (0.1, 0.2)]
    for record in records:
        rate = record.config["optimizer"]["learning_rate"]
        record.config["schedule"] = {"value": rate}
    found = listed(tables(records), (), None, ())
    assert found.columns == ["run", "status", "step", "optimizer.learning_rate"]


@pytest.mark.parametrize("key", ["probes", "callbacks", "tracker"])
def test_what_is_written_about_a_run_is_no_setting_that_varies(key):
    one, other = (made_up_runs.run(name) for name in ("a", "b"))
    other = other._replace(config={**other.config, key: {"x": {"_target_": "y"}}})
    found = listed(tables([one, other]), (), None, ())
    assert found.columns == ["run", "status", "step"]


@pytest.mark.parametrize(
    "where,count",
    [
        (["optimizer=adam"], 4),
        (["optimizer=adam", "seed=1"], 2),
        (["optimizer.learning_rate=1e-3"], 4),
        (["error=null"], 8),
    ],
)
def test_only_runs_with_these_settings(runs, where, count):
    assert len(listed(runs, where, None, ())) == count


def test_sorted_by_a_metric_in_either_order(runs):
    up = listed(runs, (), "validation/loss", ["validation/loss"])
    assert up["final.validation/loss"].is_sorted()
    down = listed(runs, (), "-validation/loss", ["validation/loss"])
    assert down["final.validation/loss"].is_sorted(descending=True)
    assert sorted(names(up)) == sorted(names(down))


@pytest.mark.parametrize(
    "asked,said",
    [
        ((["optimiser=adam"], None, ()), r"--where optimiser: no run has it\. Did you"),
        ((["optimizer"], None, ()), "--where optimizer must be KEY=VALUE"),
        ((["optimizer=adm"], None, ()), r"no run has it; optimizer is adam, sgd\. Did "
                                        "you mean 'adam'"),
        ((["optimizer=adam", "seed=x"], None, ()), "with optimizer=adam has it; seed "
                                                   r"is 0, 1\."),
        ((["seed=1.7"], None, ()), "--where seed=1.7: no run has it; seed is 0, 1"),
        ((["status=failed"], None, ()), "status is finished"),
        (((), "validation/los", ()), "Did you mean 'validation/loss'"),
        (((), None, ["sed"]), "Did you mean 'seed'"),
    ],
)  # fmt: skip
def test_mistakes_name_the_nearest(runs, asked, said):
    with pytest.raises(ConfigError, match=said):
        listed(runs, *asked)


def test_the_command(tmp_path, capsys):
    write_run(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{")
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "good" in said.out and "bad" in said.err
    assert main([str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("error: no run in ")
    assert main([str(tmp_path), "--where", "seed=77"]) == 1
    assert capsys.readouterr().err.startswith("error: --where seed=77: no run has it")
