import csv
import io
import json
import math

import pytest

from helpers.made_up_runs import run, sweep
from runner.compare import chart_parts, curves
from runner.compare.analysis import analyse
from runner.compare.figures import figures
from runner.compare.load import Runs, tables
from runner.compare.report import png


def drawn(runs: Runs, by="optimizer") -> dict:
    return {f.name: f for f in figures(runs, analyse(runs, by, "validation/loss"))}


def values(chart) -> list[dict]:
    """The rows of the first layer that holds data."""
    spec = chart.to_dict()
    data = next(d for d in [spec, *spec["layer"]] if "data" in d)["data"]["values"]
    return list(csv.DictReader(io.StringIO(data)))


def image_size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


CURVES = {"validation_loss", "train_loss", "learning_rate"}


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, {"final"}),
        ({"seeds": 1}, {"final"}),
        ({"optimizers": ("adam",)}, {"final"}),
        ({"schedules": ("constant", "cosine")}, {"final", "heat_map"}),
        (
            {"rates": (0.001, 0.01, 0.1)},
            {"final", "sensitivity", "heat_map"},
        ),
    ],
)
def test_the_figures_that_apply_and_no_others(options, expected):
    found = drawn(sweep(**options))
    assert set(found) == expected | CURVES


def test_each_figure_becomes_an_image():
    found = drawn(sweep(rates=(0.001, 0.01, 0.1)))
    assert set(found) == {"final", "sensitivity", "heat_map"} | CURVES
    for figure in found.values():
        width, height = image_size(png(figure))
        assert width > 1400 and height > 150


def test_a_group_may_lack_the_tuned_number():
    adam = [run(f"a{rate}", rate=rate) for rate in (0.1, 0.01)]
    found = drawn(tables([*adam, run("s", rate=None, optimizer="sgd")]))
    assert {r["group"] for r in values(found["sensitivity"].chart)} == {"adam"}
    x = found["heat_map"].chart.to_dict()["layer"][0]["encoding"]["x"]
    assert x["sort"] == ["0.01", "0.1", "null"]


def test_a_band_spans_the_seeds_and_a_line_is_their_mean():
    rows = values(drawn(sweep())["validation_loss"].chart)
    (row,) = [r for r in rows if r["group"] == "adam" and r["step"] == "40"]
    ends = [float(row[k]) for k in ("low", "mean", "high")]
    assert ends == [1.0, 1.01, 1.02] and row["runs"] == "3"


def test_curves_show_each_group_at_the_setting_that_it_is_compared_at():
    rows = values(drawn(sweep(rates=(0.001, 0.01)))["learning_rate"].chart)
    assert {float(r["mean"]) for r in rows} == {0.01}


def test_long_curves_are_thinned_to_steps_that_were_logged_last_one_included():
    steps = 4000
    runs = tables([run(o, optimizer=o, steps=steps) for o in ("adam", "sgd", "lion")])
    shown = chart_parts.shown(runs, analyse(runs, "optimizer", "validation/loss"))
    table = curves.aggregate(runs.curves, shown, "validation/loss", "step")
    assert curves.MAX_ROWS / 2 < table.height < curves.MAX_ROWS + 10
    assert set(table["step"]) <= set(runs.curves["step"])
    assert table["step"].max() == 10 * steps


def test_a_run_that_failed_is_shown_as_the_worst():
    broken = run("b", seed=1, final=math.nan, optimizer="sgd")
    stopped = run("d", seed=2, status="failed", steps=2, final=0.5, optimizer="sgd")
    runs = tables([run("a"), run("c", optimizer="sgd"), broken, stopped])
    found = drawn(runs)
    ends = {r["run"]: (r["value"], r["failed"]) for r in values(found["final"].chart)}
    assert ends["b"] == ends["d"] == ("4.0", "failed") and ends["c"] == (
        "1.0",
        "finished",
    )
    rows = [r for r in values(found["validation_loss"].chart) if r["group"] == "sgd"]
    assert [r["runs"] for r in rows] == ["3"] * 4
    assert [float(r["high"]) for r in rows] == [4.0] * 4  # 4, 3, 2, 1 without them
    for figure in found.values():
        assert "NaN" not in json.dumps(figure.chart.to_dict())


def test_curves_carry_names_and_identical_ones_are_called_so():
    runs = tables(
        [run(o, optimizer=o, final=f) for o, f in (("a", 1), ("b", 1), ("c", 2))]
    )
    figure = drawn(runs)["validation_loss"]
    assert "a and b are identical" in figure.caption
    labels = [r["label"] for r in values(figure.chart) if r["label"]]
    assert labels == ["a = b", "c"]


def test_labels_of_curves_that_end_close_together_do_not_cover_each_other():
    names = ("a", "b", "c")
    close = [run(o, optimizer=o, final=1 + 0.001 * i) for i, o in enumerate(names)]
    ends = values(drawn(tables(close))["validation_loss"].chart)
    at = {r["label"]: float(r["dy"]) for r in ends if r["label"]}
    assert at["a"] == -8 and at["a"] - at["b"] > 11 and at["b"] - at["c"] > 11


def test_where_cells_are_crossed_each_curve_has_its_cell_in_its_label():
    runs = sweep(schedules=("constant", "cosine"))
    ends = values(drawn(runs)["validation_loss"].chart)
    found = {r["label"] for r in ends} - {""}
    assert found == {
        f"{o}, {s}" for o in ("adam", "sgd") for s in ("constant", "cosine")
    }


@pytest.mark.parametrize(
    ("flops", "members", "expected"),
    [
        ((1000, 2000), 1, {"seconds": "20.0", "flops": "80000.0"}),
        ((1000, 1000), 1, {"seconds": "20.0"}),  # the steps say it
        ((1000, None), 1, {"seconds": "20.0"}),
        ((1000, 2000), 2, {"flops": "80000.0"}),  # members share their seconds
    ],
)
def test_curves_by_each_cost_that_says_something_of_all_runs(flops, members, expected):
    speed = {"time/steps_per_second": 2.0}
    records = [
        r._replace(
            rows=[row | speed for row in r.rows],
            summary=r.summary | {"flops_per_step": each},
            provenance={"members": members},
        )
        for each, o in zip(flops, ("adam", "sgd"), strict=True)
        for r in [run(o, optimizer=o)]
    ]
    found = drawn(tables(records))
    by = {n: values(f.chart)[-1]["at"] for n, f in found.items() if "_by_" in n}
    assert by == {f"validation_loss_by_{k}": at for k, at in expected.items()}


def test_of_many_groups_the_best_ten_are_drawn_in_ten_colours():
    runs = sweep([f"o{i}" for i in range(14)], seeds=1)
    rows = values(drawn(runs)["final"].chart)
    assert {r["group"] for r in rows} == {f"o{i}" for i in range(10)}


def test_a_switch_spans_its_values_and_stays_positive():
    switch = chart_parts.log_switch([0.001, 10.0])
    assert 0 < switch.low < 0.001 and switch.high > 10
    assert switch.parameter.param.value is True
    assert chart_parts.log_switch([1.0, 2.0]).parameter.param.value is False
    constant = chart_parts.log_switch([0.001, 0.001])  # no zoom into nothing
    assert constant.low < 0.0006 and constant.high > 0.0014
    for not_positive in ([0.0, 1.0], [-1.0, 1.0], []):
        spec = chart_parts.log_switch(not_positive).parameter.param.to_dict()
        assert spec == {"name": "log_scale", "value": False}


def test_cells_have_a_menu_unless_they_are_too_many():
    def menus(runs):
        spec = drawn(runs)["validation_loss"].chart.to_dict()
        return [
            p["bind"]["options"] for p in spec["params"] if p["name"] == "only_cell"
        ]

    assert menus(sweep()) == []
    two = sweep(schedules=("constant", "cosine"))
    assert menus(two) == [["all", "schedule=constant", "schedule=cosine"]]
    assert menus(sweep(schedules=[f"s{i}" for i in range(9)], seeds=1)) == []
