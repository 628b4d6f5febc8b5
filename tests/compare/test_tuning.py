import itertools
import math

import polars as pl
import pytest

from runner.compare.attribution import attribute
from runner.compare.costs import at_equal, reach, with_costs
from runner.compare.load import Runs
from runner.compare.tuning import at_budget, tune, warnings_of

RATE = "optimizer.learning_rate"


def grid(finals, cell=""):
    """{group: {learning rate: values by seed}} as rows."""
    return pl.DataFrame(
        [
            {"run": f"{g}{lr}{s}", "group": g, "cell": cell, "setting": f"{RATE}={lr}"}
            | {"seed": s, "value": float(v), RATE: lr}
            for g, rates in finals.items()
            for lr, values in rates.items()
            for s, v in enumerate(values)
        ]
    )


def tuned(*asked):
    tuning = tune(*asked)
    return tuning, (*warnings_of(tuning),)


def chosen(tuning):
    rows = tuning.sensitivity.filter("chosen")
    return dict(zip(rows["group"], rows[RATE], strict=True))


def test_each_group_gets_its_own_best_by_the_mean_over_seeds():
    rows = grid(
        {
            "adam": {0.001: [3, 3], 0.01: [1, 3], 0.1: [0.5, 9]},
            "sgd": {0.001: [9, 9], 0.01: [5, 5], 0.1: [4, 4]},
        }
    )
    tuning, warnings = tuned(rows, [RATE], None, False)
    assert chosen(tuning) == {"adam": 0.01, "sgd": 0.1}
    assert tuning.tried == {"adam": 3, "sgd": 3}
    (edge,) = warnings
    assert "sgd is best at the largest optimizer.learning_rate tried (0.1)" in edge
    first = tuning.sensitivity.row(0, named=True)
    assert (first["mean"], first["low"], first["high"], first["runs"]) == (3, 3, 3, 2)
    tuning, warnings = tuned(rows, [RATE], None, True)
    assert chosen(tuning) == {"adam": 0.1, "sgd": 0.001}
    assert len(warnings) == 2 and "smallest" in warnings[1]


def test_neither_a_diverged_nor_a_less_tried_setting_is_chosen():
    rows = grid(
        {"a": {1.0: [2, 2], 2.0: [0, math.nan], 3.0: [0], 4.0: [1, 1], 5.0: [3, 3]}}
    )
    tuning, warnings = tuned(rows, [RATE], None, False)
    assert chosen(tuning) == {"a": 4.0} and not warnings
    assert tuning.sensitivity["failed"].to_list() == [0, 1, 0, 0, 0]
    tuning, _ = tuned(
        grid({"a": {1.0: [math.inf], 2.0: [math.nan]}}), [RATE], None, True
    )
    assert chosen(tuning) == {"a": 1.0}


def matched(rows, tuning):
    values = at_budget(rows, tuning).group_by("group").agg(pl.mean("value"))
    return dict(values.rows())


def test_unequal_budgets_are_matched_by_the_expected_best_of_so_many():
    many = {float(i): [10.0 - i, 12.0 - i] for i in range(1, 10)}
    rows = grid({"a": many, "b": {1.0: [5, 5], 5.0: [4, 4], 9.0: [6, 6]}})
    tuning, warnings = tuned(rows, [RATE], None, False)
    assert "unequal tuning: settings tried are a 9, b 3" in warnings[0]
    assert tuning.budget == 3 and tuning.matched
    assert chosen(tuning) == {"a": 9.0, "b": 5.0}
    means = [11.0 - i for i in range(1, 10)]
    best = [min(some) for some in itertools.combinations(means, 3)]
    assert matched(rows, tuning) == pytest.approx({"a": sum(best) / len(best), "b": 4})
    tuning, _ = tuned(rows, [RATE], 1, False)
    assert tuning.budget == 1
    assert matched(rows, tuning) == pytest.approx({"a": 6, "b": 5})
    tuning, warnings = tuned(rows, [RATE], None, True)
    best = [max(some) for some in itertools.combinations(means, 3)]
    assert matched(rows, tuning)["a"] == pytest.approx(sum(best) / len(best))


def test_budgets_that_lack_seeds_can_not_be_matched():
    many = {1.0: [5, 5], 2.0: [6]}  # the other seeds only of the best
    tuning, warnings = tuned(grid({"a": many, "b": {1.0: [5, 5]}}), [RATE], None, False)
    assert not tuning.matched and "can't be matched" in warnings[0]
    # Of equally many settings nothing needs to be.
    tuning, _ = tuned(grid({"a": many, "b": many}), [RATE], None, False)
    assert tuning.matched and tuning.budget is None and chosen(tuning)["a"] == 1


def test_nothing_tuned_is_one_setting():
    rows = grid({"a": {1.0: [1, 2]}}).with_columns(setting=pl.lit(""))
    tuning, warnings = tuned(rows, [], None, False)
    assert tuning.keys == () and warnings == ()
    assert tuning.sensitivity["chosen"].to_list() == [True]


def costs(flops=None, runs=("a", "b", "c"), members=1):
    curves = pl.DataFrame(
        {
            "run": [run for run in runs for _ in range(3)],
            "step": [10, 20, 30] * len(runs),
            "validation/loss": [3.0, 1, 2, 3, None, 0.9, 3, 3, math.nan],
            "time/steps_per_second": [10.0, 5, 5] * 2 + [10.0, 10, 10],
        }
    )
    flops = pl.Series(flops, dtype=pl.Float64) if flops else pl.lit(None, pl.Float64)
    table = pl.DataFrame({"run": runs, "provenance.members": members})
    table = table.with_columns(flops_per_step=flops)
    return with_costs(Runs(table, curves))


def test_what_it_cost_to_reach_a_target():
    used = pl.DataFrame({"run": ["a", "b", "c"], "group": ["x", "x", "y"]})
    curves = costs([1, 2, 2])
    x, y = reach(curves, used, "validation/loss", 1.0, False)
    assert (x.group, x.runs, x.reached, x.steps) == ("x", 2, 2, 25)
    assert x.seconds == pytest.approx((3 + 5) / 2) and x.flops == (20 + 60) / 2
    never = (math.inf, math.inf, math.inf)
    assert (y.reached, (y.steps, y.seconds, y.flops)) == (0, never)
    x, _ = reach(costs([1, None, 2]), used, "validation/loss", 1.0, False)
    assert (x.steps, x.seconds, x.flops) == (25, pytest.approx(4), None)
    x, y = reach(curves, used, "validation/loss", 3.0, True)
    assert (x.steps, y.reached) == (10, 1)


def test_runs_are_compared_when_the_cheapest_of_them_ends():
    rows = pl.DataFrame({"run": ["a", "b", "c"], "value": [2.0, 0.9, math.inf]})
    cost, at = at_equal(costs([1, 2, 2]), rows, "validation/loss", "cost/flops")
    assert cost == 30 and at["value"].to_list() == [2.0, 3.0, math.inf]
    both = rows[[0, 1]]  # these two took equally many steps and seconds
    for axis in ("step", "cost/seconds"):
        assert at_equal(costs(), both, "validation/loss", axis) is None
    assert at_equal(costs(), rows, "validation/loss", "cost/flops") is None
    rows = rows.with_columns(value=pl.lit(1.0))
    cost, at = at_equal(costs(), rows, "validation/loss", "cost/seconds")
    assert cost == 3 and at["value"].to_list()[:2] == [1.0, 3.0]
    axis = "cost/seconds"
    assert at_equal(costs(members=2), rows, "validation/loss", axis) is None


def test_the_variance_goes_to_the_factor_that_makes_it():
    rows = pl.DataFrame(
        [
            {"optimizer": o, "framework": f, "seed": s}
            | {"value": 1.0 * (o == "sgd") + 0.1 * s + 1e-7 * (f == "nnx")}
            for o in ("adam", "sgd")
            for f in ("jax", "nnx")
            for s in (1, 2)
        ]
    )
    parts = attribute(rows, ["framework", "optimizer", "seed"])
    framework, optimizer, seed, rest = parts
    assert optimizer.share == pytest.approx(1 / 1.01, abs=1e-6)
    assert seed.share == pytest.approx(0.01 / 1.01, abs=1e-6)
    assert framework.share < 1e-10 and framework.agrees and not optimizer.agrees
    assert framework.largest_difference == pytest.approx(1e-7)
    assert optimizer.largest_difference == pytest.approx(1)
    assert rest.share == pytest.approx(0, abs=1e-9)
    assert sum(part.share or 0 for part in parts) == pytest.approx(1)


def test_an_unbalanced_grid_has_no_shares():
    rows = pl.DataFrame(
        {"a": ["x", "x", "y"], "seed": [0, 1, 0], "value": [1.0, 2.0, 3.0]}
    )
    a, seed, rest = attribute(rows, ["a", "seed"])
    assert a.share is None and seed.share is None and rest.share is None
    assert a.largest_difference == 2
    assert attribute(rows, []) == ()
    same = attribute(rows.with_columns(value=pl.lit(0.0)), ["a"])
    assert same[0].agrees
