"""Tables become arrays by the roles of their columns, from training rows alone."""

import gzip
import itertools
import json
import re

import numpy as np
import polars as pl
import pytest

from runner.data.digest import data_digest
from runner.data.table.dataset import table
from runner.errors import ConfigError

rng = np.random.default_rng(0)
SIZE = 60
PEOPLE = pl.DataFrame(
    {
        "age": rng.integers(18, 90, SIZE),
        "height": rng.normal(170, 10, SIZE).round(1),
        "colour": rng.choice(["red", "green", "blue"], SIZE),
        "member": rng.random(SIZE) < 0.5,
        "zip": rng.choice([101, 202], SIZE),
        "team": np.arange(SIZE) // 5,
        "fold": ["train"] * 40 + ["validation"] * 12 + ["test_late"] * 8,
        "weight": rng.random(SIZE).round(2),
        "income": rng.normal(50, 9, SIZE).round(2),
        "kind": rng.choice(["cat", "dog", "owl"], SIZE),
    }
)
INPUTS = ["age", "height"]


@pytest.fixture
def made(tmp_path):
    """Makes a data set of people.csv, at first PEOPLE; or of other rows."""

    def made(rows=PEOPLE, **changes):
        file = tmp_path / "people.csv"
        if rows is not None:
            rows.write_csv(file)
        given = dict(
            path=str(file), target="kind", inputs=INPUTS, categorical=[], weight=None,
            ignored=[], group=None, splits={"validation": 0.2, "test": 0.1},
            split_seed=0, standardize=True, encode="onehot", missing="refuse",
            separator=",", header=True, null_values=["", "NA"], transforms=[],
            batch_size=4, reshuffle=True, mode="auto", device_limit_mb=256,
        )  # fmt: skip
        return table(**given | changes)

    return made


def columns(data, name):
    return data.splits[name].rows(np.arange(len(data.splits[name])))


def test_numbers_are_standardised_by_the_training_rows_alone(made):
    data = made(splits="fold")
    assert {k: len(s) for k, s in data.splits.items()} == {
        "test_late": 8, "train": 40, "validation": 12,
    }  # fmt: skip
    wanted = PEOPLE.select(INPUTS).to_numpy().astype(float)
    mean, std = wanted[:40].mean(0), wanted[:40].std(0)
    for name, rows in (("train", slice(40)), ("validation", slice(40, 52))):
        found = columns(data, name)["input"]
        np.testing.assert_allclose(found, (wanted[rows] - mean) / std, rtol=1e-5)
        assert found.dtype == np.float32
    as_they_are = columns(made(splits="fold", standardize=False), "test_late")
    np.testing.assert_allclose(as_they_are["input"], wanted[52:], rtol=1e-6)


def test_names_become_vectors_or_integers(made):
    chosen = {"inputs": ["colour", "age", "member", "zip"], "categorical": ["zip"]}
    found = columns(made(splits="fold", **chosen), "validation")["input"]
    rows = PEOPLE[40:52]
    kinds = [rows["colour"] == c for c in ("blue", "green", "red")]
    kinds += [~rows["member"], rows["member"], rows["zip"] == 101, rows["zip"] == 202]
    wanted = np.stack([kind.to_numpy() for kind in kinds], 1)
    np.testing.assert_array_equal(found[:, 1:], wanted)
    data = made(splits="fold", encode="integers", **chosen)
    found = columns(data, "validation")
    assert found["input"].shape == (12, 1)
    assert data.classes == {"colour": 4, "member": 3, "zip": 3, "label": 3}
    np.testing.assert_array_equal(found["colour"], wanted[:, :3].argmax(1))


def test_a_name_that_training_lacks_is_unknown(made):
    rows = PEOPLE.with_columns(
        colour=pl.when(pl.col("fold") == "train").then("colour").otherwise(pl.lit("x"))
    )
    chosen = {"inputs": ["colour"], "splits": "fold"}
    assert (columns(made(rows, **chosen), "validation")["input"] == 0).all()
    data = made(None, encode="integers", **chosen)
    assert (columns(data, "validation")["colour"] == 3).all()


@pytest.mark.parametrize(
    ("target", "label", "number"),
    [("kind", 3, False), ("member", 2, False), ("zip", 2, True), ("income", 0, True)],
)
def test_a_target_is_a_label_a_number_or_both(made, target, label, number):
    data = made(target=target, splits="fold")
    found = columns(data, "train")
    assert data.classes == ({"label": label} if label else {})
    assert ("target" in found, "label" in found) == (number, bool(label))
    values = PEOPLE[target][:40].to_list()
    if label:
        places = sorted(set(PEOPLE[target]))
        assert found["label"].tolist() == [places.index(v) for v in values]
    if number:
        np.testing.assert_allclose(found["target"], values, rtol=1e-6)


def test_large_whole_numbers_are_classes_of_their_own(made):
    first = 2**53
    rows = PEOPLE.with_columns(id=pl.int_range(pl.len()) % 3 + first)
    data = made(rows, target="id", splits="fold")
    assert data.classes == {"label": 3}
    assert columns(data, "train")["label"].tolist() == [i % 3 for i in range(40)]
    assert columns(data, "train")["target"][0] == first


def test_shares_are_drawn_by_a_seed_or_the_last_rows(made):
    def ages(seed):
        data = made(standardize=False, split_seed=seed)
        return {k: columns(data, k)["input"][:, 0].tolist() for k in data.splits}

    wanted = PEOPLE["age"].to_list()
    assert ages(None) == {
        "train": wanted[:42], "validation": wanted[42:54], "test": wanted[54:],
    }  # fmt: skip
    first, other = ages(0), ages(1)
    assert first == ages(0) != other
    assert sorted(itertools.chain(*first.values())) == sorted(wanted)
    assert [len(rows) for rows in first.values()] == [42, 12, 6]


def test_rows_of_a_group_stay_together(made):
    rows = PEOPLE.with_columns(age=pl.int_range(pl.len()))
    data = made(rows, group="team", inputs=["age"], standardize=False)
    found = {
        name: set(columns(data, name)["input"][:, 0].astype(int) // 5)
        for name in data.splits
    }
    assert sorted(itertools.chain(*found.values())) == list(range(12))
    assert [len(teams) for teams in found.values()] == [9, 2, 1]


def test_missing_values_are_refused_or_imputed(made):
    gap = pl.int_range(pl.len()) % 7 == 3
    rows = PEOPLE.with_columns(
        age=pl.when(gap).then(None).otherwise("age"),
        colour=pl.when(gap).then(None).otherwise("colour"),
    )
    chosen = {"inputs": ["age", "colour"], "splits": "fold"}
    with pytest.raises(ConfigError, match=r"age has missing values: 2 in test_late, 6"):
        made(rows, **chosen)
    found = columns(made(None, missing="impute", **chosen), "validation")["input"]
    at = np.flatnonzero(np.arange(40, 52) % 7 == 3)
    assert (found[at] == 0).all() and (found[:, 1:].sum(1) == 0).sum() == len(at)


def test_every_kind_of_file_gives_the_same_rows(made, tmp_path):
    first = made(inputs=INPUTS)
    PEOPLE.write_parquet(tmp_path / "people.parquet")
    PEOPLE.write_csv(tmp_path / "people.tsv", separator="\t")
    numbers = {name: PEOPLE[name].to_numpy() for name in (*INPUTS, "zip")}
    np.savez(tmp_path / "people.npz", **numbers)
    for ending in ("parquet", "tsv"):
        other = made(path=str(tmp_path / f"people.{ending}"))
        assert data_digest(other) == data_digest(first)
    PEOPLE[:25].write_csv(tmp_path / "part_1.csv")
    PEOPLE[25:].write_csv(tmp_path / "part_2.csv")
    assert data_digest(made(path=f"{tmp_path}/part_*.csv")) == data_digest(first)
    as_numpy = made(path=str(tmp_path / "people.npz"), target="zip")
    assert data_digest(as_numpy) == data_digest(made(target="zip"))
    array = PEOPLE.select(*INPUTS, "zip").to_numpy()
    np.save(tmp_path / "people.npy", array)
    plain = made(
        path=str(tmp_path / "people.npy"), target="column_2",
        inputs=["column_0", "column_1"],
    )  # fmt: skip
    assert data_digest(plain) == data_digest(made(target="zip"))


def test_a_split_of_its_own_file(made, tmp_path):
    PEOPLE[:9].with_columns(age=pl.col("age") + 0.5).write_csv(tmp_path / "own.csv")
    splits = {"validation": str(tmp_path / "own.csv"), "test": None}
    data = made(splits=splits, standardize=False)
    assert {k: len(v) for k, v in data.splits.items()} == {"train": 60, "validation": 9}
    found = columns(data, "validation")["input"][:, 0]
    np.testing.assert_allclose(found, PEOPLE["age"][:9] + 0.5)


def test_a_category_is_the_same_whole_number_in_every_file(made, tmp_path):
    """pandas writes whole numbers of which some are missing as floats."""
    other = pl.DataFrame({"zip": [101.0, 202.0, None, 7.0], "kind": ["cat"] * 4})
    other.write_parquet(tmp_path / "own.parquet")
    data = made(
        splits={"validation": str(tmp_path / "own.parquet")}, inputs=["zip"],
        categorical=["zip"], missing="impute", encode="integers",
    )  # fmt: skip
    assert columns(data, "validation")["zip"].tolist() == [0, 1, 2, 2]


FILES = {
    "dates.parquet": pl.DataFrame({"day": [1, 2], "kind": ["a", "b"]}).with_columns(
        day=pl.col("day").cast(pl.Date)
    ),
    "constant.csv": PEOPLE.with_columns(age=pl.lit(7)),
    "one_name.csv": PEOPLE.with_columns(colour=pl.lit("red")),
    "no_target.csv": PEOPLE.with_columns(
        kind=pl.when(pl.int_range(pl.len()) > 3).then("kind")
    ),
    "one_target.csv": PEOPLE.with_columns(kind=pl.lit("cat")),
    "question.csv": PEOPLE.with_columns(
        age=pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("?"))
        .otherwise(pl.col("age").cast(pl.String))
    ),
    "infinite.csv": PEOPLE.with_columns(height=pl.lit(1) / (pl.col("age") - 30)),
    "negative.csv": PEOPLE.with_columns(weight=-pl.col("weight")),
    "huge.csv": PEOPLE.with_columns(height=10.0 ** pl.col("age")),
    "empty.csv": PEOPLE.with_columns(age=pl.lit(None)),
    "short.csv": PEOPLE.select("age", "kind"),
}  # fmt: skip
MISTAKES = [
    ({"path": "peple.csv"}, "data.path=.*peple.csv is no file.* Did you mean 'peop"),
    ({"path": "people.json"}, "people.json must end with one of .csv, .tsv"),
    ({"path": "broken.parquet"}, "broken.parquet can't be read"),
    ({"path": "broken.npz"}, "broken.npz can't be read"),
    ({"path": "pickled.npy"}, "pickled.npy can't be read"),
    ({"path": "deep.npy"}, "array column of shape .2, 2, 2.*data=source takes any"),
    ({"path": "[sc]*.csv"}, "have different columns: colour, fold, "),
    ({"target": "knd"}, "data.target=knd is not a column .* Did you mean 'kind'"),
    ({"inputs": ["age", "hight"]}, "data.inputs=hight is not .* Did you mean 'height'"),
    ({"ignored": ["colur"]}, "data.ignored=colur is not .* Did you mean 'colour'"),
    ({"weight": "wait"}, "data.weight=wait is not a column"),
    ({"group": "tem"}, "data.group=tem is not .* Did you mean 'team'"),
    ({"splits": "folds"}, "data.splits=folds is not .* Did you mean 'fold'"),
    ({"splits": "team"}, "data.splits=team has the values 0, 1, "),
    ({"inputs": ["kind"]}, "data.inputs=kind is data.target already"),
    ({"weight": "kind"}, "data.weight=kind is data.target already"),
    ({"categorical": ["zip"]}, "data.categorical=zip is not one of data.inputs"),
    ({"inputs": None, "ignored": [c for c in PEOPLE.columns if c != "kind"]},
     "no column is left to be an input"),
    ({"weight": "colour", "inputs": INPUTS}, "data.weight=colour is String, not"),
    ({"weight": "weight", "path": "negative.csv"}, "weight must be at least 0 and fin"),
    ({"path": "dates.parquet", "inputs": ["day"], "splits": {}}, "day is Date, neit"),
    ({"path": "constant.csv"}, "age is 7 in all rows of train.*data.ignored"),
    ({"path": "one_name.csv", "inputs": ["colour"]}, "colour is red in all rows of"),
    ({"path": "no_target.csv"}, "kind is missing in 4 rows"),
    ({"path": "one_target.csv"}, "data.target=kind is cat in all rows"),
    ({"path": "question.csv"}, r"age is numbers but for \?\. Add .*data.null_values"),
    ({"path": "infinite.csv", "splits": {}}, "data.inputs=height has . infinite val"),
    ({"path": "huge.csv"}, "data.inputs=height: train has rows with 1e.*32 bits"),
    ({"path": "huge.csv", "inputs": ["age"], "target": "height"}, "target=height has "),
    ({"path": "twice.npz"}, "twice.npz can't be read: .* 'x_1' has more than one"),
    ({"path": "empty.csv"}, "data.inputs=age: all of its values in train are mis"),
    ({"splits": {"validation": 1.0}}, "data.splits.validation=1.0 must be a fraction"),
    ({"splits": {"validation": 0.5, "test": 0.5}}, "leave nothing to train on"),
    ({"splits": {"validation": 0.001}}, "data.splits.validation=0.001 of 60 rows is"),
    ({"splits": {"valid": 0.1}}, "data.splits.valid must be called"),
    ({"splits": {"train": 0.1}}, "data.splits.train can't be set"),
    ({"splits": {"validation": "short.csv"}}, "its files lack the columns height"),
    ({"splits": {"validation": "question.csv"}}, "age is String, and Int64 in data.pa"),
    ({"encode": "one_hot"}, "data.encode=one_hot must be .* Did you mean 'onehot'"),
    ({"missing": "drop"}, "data.missing=drop must be one of refuse, impute"),
    ({"null_values": [None]}, "data.null_values=None must be text, as it is written"),
    ({"separator": ";;"}, "data.separator=';;' must be one character"),
    ({"separator": ";"}, "data.target=kind is not a column .* which has age,height"),
    ({"mode": "stream"}, "data.mode='stream' must be one of auto, device, memory"),
    ({"batch_size": 50}, "data.batch_size=50 is larger than the 42 training"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"), MISTAKES, ids=[json.dumps(m[0])[:60] for m in MISTAKES]
)
def test_a_mistake_is_told(made, tmp_path, changes, message):
    path = changes.get("path", "")
    (tmp_path / "people.json").write_text("{}")
    (tmp_path / "broken.parquet").write_text("no")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04no")
    np.save(tmp_path / "pickled.npy", np.array([{}, 1], object))
    np.savez(tmp_path / "twice.npz", x=np.eye(2), x_1=np.ones(2))
    np.save(tmp_path / "deep.npy", np.zeros((2, 2, 2)))
    for name, rows in FILES.items():
        if name in str(changes) or "*" in path:
            write = rows.write_parquet if name.endswith("t") else rows.write_csv
            write(tmp_path / name)
    if path:
        changes = changes | {"path": str(tmp_path / path)}
    if isinstance(changes.get("splits"), dict):
        changes = changes | {
            "splits": {
                k: str(tmp_path / v) if isinstance(v, str) else v
                for k, v in changes["splits"].items()
            }
        }
    with pytest.raises(ConfigError, match=re.compile(message, re.DOTALL)):
        made(**changes)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
@pytest.mark.parametrize("name", ["größe.csv", "größe.csv.gz"])
def test_a_file_that_is_not_utf_8_is_told(made, tmp_path, encoding, name):
    written = PEOPLE.rename({"age": "größe"}).write_csv().encode(encoding)
    is_packed = name.endswith(".gz")
    (tmp_path / name).write_bytes(gzip.compress(written) if is_packed else written)
    with pytest.raises(ConfigError, match="first line isn't text in UTF-8"):
        made(path=str(tmp_path / name), inputs=["height"])


def test_names_may_have_any_letters(made, tmp_path):
    rows = PEOPLE.rename({"age": "größe", "height": "身長"}).write_csv()
    (tmp_path / "any.csv").write_text(rows, "utf-8-sig")
    data = made(path=str(tmp_path / "any.csv"), inputs=["größe", "身長"])
    assert columns(data, "train")["input"].shape[1] == 2


@pytest.mark.parametrize(
    "task", ["regression", pytest.param("classification", marks=pytest.mark.nightly)]
)
def test_a_table_trains_with_weights(made, tmp_path, trained, task):
    """A row of weight 2 counts as two rows; with weight 0 it isn't there."""
    target = "kind" if task == "classification" else "income"
    rows = PEOPLE.filter(pl.col("fold") != "test_late")
    rows = rows.with_columns(weight=pl.lit(1.0))
    twice = rows.with_columns(weight=pl.when(pl.col("fold") == "train").then(1.0)
                              .otherwise(pl.int_range(pl.len()) % 3))  # fmt: skip
    repeated = pl.concat([rows[:40], *(twice.filter(pl.col("weight") >= n)[40:]
                          if n == 0 else twice[40:].filter(pl.col("weight") >= n)
                          for n in (1, 2))])  # fmt: skip
    losses = []
    for given in (twice, repeated.with_columns(weight=pl.lit(1.0))):
        given.write_csv(tmp_path / "people.csv")
        found = trained(
            "data=table", f"data.path={tmp_path}/people.csv", f"data.target={target}",
            "data.inputs=[age,height]", "data.weight=weight", "data.splits=fold",
            f"task={task}", "framework=jax", "model.hidden_sizes=[4]",
            "data.batch_size=8", "train.epochs=1",
        )  # fmt: skip
        losses.append(found[-1]["validation/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
