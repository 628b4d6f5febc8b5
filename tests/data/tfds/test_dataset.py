import importlib
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.digits import config_error, load
from runner.data.batches import train_batches
from runner.data.dataset import Feature, MemorySplit
from runner.data.digest import data_digest
from runner.data.order import Order
from runner.data.tfds.split import TfdsSplit
from runner.errors import ConfigError

ROOT = Path(__file__).parents[3]

# Examples of the digits 0 to 9 in optdigits.tes.
COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder in which digits are prepared."""
    folder = tmp_path_factory.mktemp("data")
    load(folder)
    return folder


def assert_same(one, other):
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.smoke
def test_digits(tmp_path):
    data = load(tmp_path)
    test = data.splits["test"]
    assert (len(data.train), len(test)) == (1437, 360)
    assert data.features["input"] == Feature((8, 8, 1), "uint8")
    assert data.features["label"] == Feature((), "int32", classes=10)
    images, labels = data.train.columns["input"], data.train.columns["label"]
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert images.max() == 16
    every = np.concatenate([labels, test.columns["label"]])
    assert np.bincount(every).tolist() == COUNTS
    # Other examples in a split need another VERSION of the builder, and new records.
    assert labels[:10].tolist() == [2, 8, 9, 2, 5, 1, 6, 3, 0, 5]
    assert test.columns["label"][:10].tolist() == [7, 0, 6, 2, 1, 9, 0, 1, 0, 6]
    assert "tensorflow" not in sys.modules


def test_batches_are_the_same_in_every_mode(data_dir):
    device, memory, stream = (
        load(data_dir, mode=mode) for mode in ("device", "memory", "stream")
    )
    assert isinstance(device.train, MemorySplit)
    assert isinstance(memory.train, MemorySplit)
    assert not isinstance(stream.train, MemorySplit)
    order = Order(1437, 64, seed=1, limit_batches=None)
    start = 17  # not at an epoch's beginning
    batches = [train_batches(data, order, start) for data in (device, memory, stream)]
    for _, one, two, three in zip(range(60), *batches, strict=False):  # 3 epochs
        assert_same(one, two)
        assert_same(one, three)
    rows = np.arange(360)
    assert_same(device.splits["test"].rows(rows), stream.splits["test"].rows(rows))


@pytest.mark.parametrize(
    ("limits_mb", "mode"),
    [((256, 1024), "device"), ((0.05, 1024), "memory"), ((0.05, 0.1), "stream")],
)
def test_auto_chooses_by_size(data_dir, limits_mb, mode):
    # 1797 * 64 bytes = 0.11 MiB
    device_mb, memory_mb = limits_mb
    data = load(data_dir, device_limit_mb=device_mb, memory_limit_mb=memory_mb)
    assert data.mode == mode


def test_a_split_is_read_once_a_process_and_cant_be_changed(data_dir):
    one, other = load(data_dir), load(data_dir, batch_size=32)
    assert one.train is other.train
    with pytest.raises(ValueError, match="read-only"):
        one.train.columns["input"][0] = 1


def test_whole_numbers_that_32_bits_dont_hold_are_refused_not_others():
    class Source(list):
        def __getitems__(self, keys):
            return [self[key] for key in keys]

    source = Source({"id": np.int64(n)} for n in (1, 2**31))
    split = TfdsSplit("folder", "train", (("x", "id"),), source)
    assert split.rows(np.arange(1))["x"].dtype == np.int32
    with pytest.raises(ConfigError, match=r"train of folder has id with 2147483648, w"):
        split.rows(np.arange(2))


def test_slices_and_no_label(data_dir):
    splits = {"train": "train[:50%]", "validation": "train[50%:]", "test": None}
    columns = {"input": "image", "label": None}
    data = load(data_dir, splits=splits, columns=columns)
    assert sum(map(len, data.splits.values())) == 1437
    assert list(data.splits) == ["train", "validation"]
    assert list(data.features) == list(data.train.columns) == ["input"]


def test_a_prepared_folder(data_dir):
    folder = data_dir / "runner_digits" / "1.0.0"
    data = load("/nowhere", name=str(folder))
    assert_same(data.train.columns, load(data_dir).train.columns)
    message = config_error(data_dir, name=str(data_dir))
    assert "dataset_info.json" in message
    assert f"Perhaps {folder}?" in message


def kept(data_dir):
    """The one file of decoded columns."""
    (path,) = (data_dir / ".decoded").iterdir()
    return path


def test_what_was_decoded_is_read_without_tfds(tmp_path, monkeypatch):
    first = load(tmp_path, transforms=[])
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    again = load(tmp_path, transforms=[], batch_size=32)
    for field in ("name", "classes", "mode", "transforms", "features"):
        assert getattr(again, field) == getattr(first, field)
    assert again.batch_size == 32
    assert list(again.splits) == list(first.splits)
    for name, split in first.splits.items():
        assert_same(split.columns, again.splits[name].columns)
    with pytest.raises(ValueError, match="read-only"):
        again.train.columns["input"][0] = 1


@pytest.mark.parametrize(
    "changed",
    [
        {"columns": {"input": "image"}},
        {"splits": {"train": "train[:50%]", "validation": "test"}},
        {"unlabelled": "drop"},
        {"mode": "stream"},
        {"device_limit_mb": 0.05, "memory_limit_mb": 0.1},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_choice_is_decoded_again(tmp_path, monkeypatch, changed):
    load(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError):
        load(tmp_path, **changed)


def test_large_data_are_known_by_their_files_where_they_were_decoded_before(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("runner.data.digest.LARGEST", 100)
    first = data_digest(load(tmp_path))
    assert len(first["files"]) == 2
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert data_digest(load(tmp_path)) == first


@pytest.mark.parametrize(
    ("key", "told"),
    [("data_dir", "set HOME, TFDS_DATA_DIR or data.d"), ("name", "set HOME or data.n")],
)
def test_a_home_folder_that_isnt_known_is_told(tmp_path, key, told):
    message = config_error(**{"data_dir": tmp_path} | {key: "~nobody_here/x"})
    assert f"data.{key}=~nobody_here/x needs a home folder" in message
    assert told in message


@pytest.mark.parametrize("damage", ["a bit", "half", "no file", "new data"])
def test_nothing_damaged_or_stale_is_used(tmp_path, monkeypatch, damage):
    wanted = load(tmp_path)
    path = kept(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "a bit":
        data[-100] ^= 1
        path.write_bytes(data)
    elif damage == "half":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "no file":
        path.unlink()
    else:
        os.utime(next((tmp_path / "runner_digits" / "1.0.0").glob("*train*")))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "tensorflow_datasets", None)
        with pytest.raises(ImportError):
            load(tmp_path)
    again = load(tmp_path)
    assert_same(wanted.train.columns, again.train.columns)
    assert (
        kept(tmp_path).read_bytes()[-1000:] == bytes(data[-1000:]) or damage == "a bit"
    )


def test_a_folder_that_cant_be_written_is_no_obstacle(tmp_path):
    folder = tmp_path / "prepared"
    load(folder)
    shutil.rmtree(folder / ".decoded")
    (folder / ".decoded").write_text("in the way")
    assert len(load(folder).train) == 1437


def test_a_new_version_prepares_again(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    from runner.data.digits import Digits

    load(tmp_path)
    kept(tmp_path).unlink()  # its name depends on the builder's code, this test's not
    monkeypatch.setattr(Digits, "VERSION", tfds.core.Version("1.0.1"))
    load(tmp_path)
    assert (tmp_path / "runner_digits" / "1.0.1").is_dir()


@pytest.mark.parametrize("mode", ["memory", "stream"])
def test_a_standard_name_with_mock_data(tmp_path, mode):
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=8):
        data = load(tmp_path, name="cifar10", batch_size=4, mode=mode)
        order = Order(len(data.train), 4, seed=0, limit_batches=None)
        batch = next(train_batches(data, order, 3))
    assert len(data.train) == 8
    assert data.features["input"].shape == batch["input"].shape[1:] == (32, 32, 3)
    assert batch["label"].dtype == np.int32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "minst"}, ["data.name='minst'", "mean 'mnist'?"]),
        ({"name": "digit"}, ["data.name='digit'", "mean 'digits'?"]),
        ({"name": "emnist/leters"}, ["no config 'leters'", "mean 'letters'?"]),
        ({"name": "mnist:1.0.0"}, ["data.name='mnist:1.0.0'", "only: 3.0.1"]),
        ({"name": "imagenet2012"}, ["data.columns.input='image'", "(None, None, 3)"]),
        (
            {"columns": {"input": "imge"}},
            ["data.columns.input='imge'", "image, label", "mean 'image'?"],
        ),
        ({"columns": {"x": "lable"}}, ["data.columns.x='lable'", "mean 'label'?"]),
        (
            {"splits": {"train": "train", "test": "tset"}},
            ["data.splits.test='tset'", "mean 'test'?"],
        ),
        (
            {"splits": {"train": "train[9%"}},
            ["data.splits.train='train[9%'", "train[:80%]"],
        ),
        ({"splits": {"test": "test"}}, ["data.splits.train must be given"]),
        (
            {"splits": {"train": "train", "valid": "test"}},
            ["data.splits.valid", "mean 'validation'?"],
        ),
        (
            {"splits": {"train": "train", "validation": "train[:1%]"}},
            ["splits.train='train'", "'train[:1%]'", "14 examples in common"],
        ),
        (
            {"splits": {"train": "train", "validation": "test[:9]", "test": "test"}},
            ["splits.validation", "splits.test", "9 examples in common"],
        ),
        ({"mode": "devise"}, ["data.mode='devise'", "mean 'device'?"]),
        ({"batch_size": 4096}, ["data.batch_size=4096", "1437 training", "=digits"]),
        ({"batch_size": 0}, ["data.batch_size=0"]),
        ({"manual_dir": "/nowhere"}, ["data.manual_dir=/nowhere"]),
        ({"data_dir": "/dev/null/x"}, ["data.data_dir=/dev/null/x", "written"]),
    ],
)
def test_a_mistake_is_told_with_key_value_and_the_nearest_name(
    data_dir, changes, words
):
    message = config_error(**{"data_dir": data_dir} | changes)
    for word in words:
        assert word in message


def test_importing_costs_nothing_until_used():
    modules = "dataset order tfds linear_ae".split()
    code = f"""import sys
import {", ".join(f"runner.data.{module}" for module in modules)}
print(sorted({{"jax", "grain", "tensorflow_datasets", "absl"}} & set(sys.modules)))"""
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed.strip() == "[]"


def compose(*overrides):
    import hydra

    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose(overrides=list(overrides))


YAML_NAMES = sorted(path.stem for path in (ROOT / "conf" / "data").glob("*.yaml"))


@pytest.mark.parametrize("name", YAML_NAMES)
def test_a_yaml_writes_out_every_argument(name):
    config = compose("+task=classification", f"+data={name}", "+metrics={}")
    arguments = dict(config.data.items_ex(resolve=False))
    module, function = arguments.pop("_target_").rsplit(".", 1)
    target = getattr(importlib.import_module(module), function)
    assert set(arguments) == set(inspect.signature(target).parameters)
    assert arguments.get("name", name) == ("???" if name == "tfds" else name)
    others = {
        "linear_ae": "reconstruction",
        "quadratic": "quadratic",
        "text": "language_model",
    }
    task = others[name] if name in others else "classification"
    assert config.task._target_ == f"runner.tasks.{task}.{task}"


def test_the_data_folder_is_that_of_tfds(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/shared data/tfds")
    assert compose("+data=digits").data.data_dir == "/shared data/tfds"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert compose("+data=digits").data.data_dir == "~/tensorflow_datasets"
