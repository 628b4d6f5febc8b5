"""Predictions of a saved run as a table."""

import numpy as np
import polars as pl
import pytest

from helpers.saved_runs import SHORT, WITH_STATISTICS, some_at_night
from runner import load_run
from runner.errors import ConfigError
from runner.evaluate.__main__ import main as evaluate
from runner.predict.__main__ import main as predict


def test_rows_of_another_table_are_scaled_as_the_run_has_learned(ran, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, size, shift in (("own", 60, 0.0), ("new", 9, 5.0)):
        x, y = rng.normal(shift, 2, size), rng.normal(size=size)
        rows = {"x": x, "kind": ["a", "b", "b"] * (size // 3), "y": y}
        pl.DataFrame(rows).write_csv(tmp_path / f"{name}.csv")
    ran(tmp_path / "run", *SHORT, "data=table", f"data.path={tmp_path / 'own.csv'}",
        "data.target=y", "task=regression", "data.batch_size=9")  # fmt: skip
    run, new = str(tmp_path / "run"), tmp_path / "new.csv"
    assert evaluate([run, f"data.path={new}", "data.batch_size=2"]) == 1
    assert (
        "split beside the run's own: +data.splits.test_new" in capsys.readouterr().err
    )
    (tmp_path / "own.csv").rename(tmp_path / "moved.csv")
    moved = f"data.path={tmp_path / 'moved.csv'}"
    out = tmp_path / "rows.csv"
    beside = [moved, f"+data.splits.test_new={new}", "--split", "test_new"]
    assert predict([run, *beside, "--out", str(out)]) == 0
    table = pl.read_csv(out)
    assert table.columns == ["index", "output", "target", "loss"]
    np.testing.assert_allclose(table["target"], pl.read_csv(new)["y"], rtol=1e-6)
    losses = (table["output"] - table["target"]) ** 2
    np.testing.assert_allclose(losses, table["loss"], rtol=1e-4)


@pytest.mark.parametrize("name", some_at_night(WITH_STATISTICS))
def test_predictions_are_in_the_order_of_the_data(trained, name, tmp_path):
    folder = trained(name)
    out = tmp_path / "rows.parquet"
    assert predict([str(folder), "--out", str(out)]) == 0
    table, saved = pl.read_parquet(out), load_run(folder)
    assert table.columns == ["index", "output", "predicted", "label", "loss"]
    assert table["index"].to_list() == list(range(180))
    split = saved._model(()).run.spec.dataset.splits["test"].rows(np.arange(180))
    assert table["label"].to_list() == split["label"].tolist()
    outputs = np.asarray(saved.predict({"input": split["input"]}))
    # In batches of another size, which XLA adds up in another order.
    found = table["output"].to_numpy()
    np.testing.assert_allclose(found, outputs, rtol=1e-5, atol=1e-6)
    assert (table["output"].arr.arg_max() == table["predicted"]).all()
    numbers = saved.evaluate("test")
    hits = (table["predicted"] == table["label"]).mean()
    assert hits == pytest.approx(numbers["test/accuracy"])
    assert table["loss"].mean() == pytest.approx(numbers["test/loss"], rel=1e-5)


def test_a_text_file_has_a_column_for_each_number(trained, tmp_path):
    out = tmp_path / "rows.csv"
    given = [str(trained()), "--split", "train", "--out", str(out)]
    assert predict(given) == 0
    table = pl.read_csv(out)
    outputs = [f"output_{i}" for i in range(10)]
    assert table.columns == ["index", *outputs, "predicted", "label", "loss"]
    assert len(table) == 1437
    assert predict([*given, "--no-outputs"]) == 0
    assert pl.read_csv(out).columns == ["index", "predicted", "label", "loss"]


@pytest.mark.parametrize(
    "out,said",
    [
        ("rows.txt", "must end in .parquet or .csv"),
        ("a/b.csv", "b.csv can't be written"),
    ],
)
def test_a_table_that_cannot_be_written(trained, out, said, tmp_path, capsys):
    (tmp_path / "a").write_text("a file")
    assert predict([str(trained()), "--out", str(tmp_path / out)]) == 1
    assert said in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "shape, said",
    [
        (
            (8, 8, 1),
            r"input has shape \[8, 8, 1\], and in the data \[B, 8, 8, 1\], where B",
        ),
        ((0, 8, 8, 1), r"input has shape \[0, 8, 8, 1\]"),
        (
            (1, 9, 9, 1),
            r"shape \[1, 9, 9, 1\], and in the data \[B, 8, 8, 1\]\. dot_gen",
        ),
    ],
)
def test_inputs_of_another_shape_are_told_with_that_of_the_data(trained, shape, said):
    with pytest.raises(ConfigError, match=said):
        load_run(trained()).predict({"input": np.zeros(shape, np.uint8)})
