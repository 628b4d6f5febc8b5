import io
import multiprocessing
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from helpers.digits import config_error, load

ROOT = Path(__file__).parents[3]
DEBIAN_FILES = Path("/usr/share/datasets/fashion-mnist")


def prepare_at_once(folder):
    _barrier.wait(60)
    return len(load(folder).train)


def set_barrier(barrier):
    global _barrier
    import tensorflow_datasets  # noqa: F401  imported before the race begins

    _barrier = barrier


def test_four_processes_prepare_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    with context.Pool(4, set_barrier, [barrier]) as pool:
        sizes = pool.map(prepare_at_once, [tmp_path] * 4, chunksize=1)
    assert sizes == [1437] * 4
    prepared = list((tmp_path / "runner_digits").iterdir())
    assert [path.name for path in prepared] == ["1.0.0"]


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    load(tmp_path / "data")
    assert [*temporary.iterdir()] == []


def test_missing_files_are_named_at_once(tmp_path):
    manual = tmp_path / "files"
    manual.mkdir()
    message = config_error(tmp_path, name="kmnist", manual_dir=str(manual))
    for split in ("train", "t10k"):
        assert f"{split}-images-idx3-ubyte.gz" in message
        assert f"{split}-labels-idx1-ubyte.gz" in message
    assert str(manual) in message
    assert "data.download=true" in message


def test_a_server_that_cant_be_reached_is_no_endless_retry(tmp_path, monkeypatch):
    import requests

    asked = []

    def refuse(url, timeout):
        asked.append(url)
        raise requests.ConnectTimeout(url)

    monkeypatch.setattr(requests, "head", refuse)
    message = config_error(tmp_path, name="mnist", download=True)
    assert "t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz" in message
    assert "https://storage.googleapis.com/ doesn't answer" in message
    assert "ConnectTimeout" in message
    assert asked == ["https://storage.googleapis.com/"]  # once for four files
    assert not (tmp_path / "mnist" / "3.0.1").exists()


def test_a_file_with_a_wrong_checksum_is_refused(tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"not the file")
    message = config_error(tmp_path, name="cifar10", manual_dir=str(tmp_path))
    assert "wrong checksum" in message
    assert "cifar-10-binary.tar.gz" in message


def cifar_archive(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Files as in cifar-10-binary.tar.gz, with a sixth of the examples in each."""
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    records = np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1)
    classes = "airplane automobile bird cat deer dog frog horse ship truck".split()
    files = {"batches.meta.txt": "\n".join(classes).encode()}
    parts = np.split(records, 6)
    files |= {name: part.tobytes() for name, part in zip(names, parts, strict=True)}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def test_cifar10_is_prepared_without_tensorflow(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 32, 32, 3), np.uint8)
    labels = np.arange(60) % 10
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(cifar_archive(images, labels))
    builder = tfds.builder_cls("cifar10")
    published = {url: checksums.compute_url_info(path) for url in builder.url_infos}
    monkeypatch.setattr(builder, "url_infos", published)

    data = load(tmp_path, name="cifar10", manual_dir=str(tmp_path), batch_size=4)
    assert (len(data.train), len(data.splits["test"])) == (50, 10)
    assert data.classes == {"label": 10}
    label_of = {
        image.tobytes(): label for image, label in zip(images, labels, strict=True)
    }
    seen = {}
    for split in data.splits.values():
        columns = split.columns
        for image, label in zip(columns["input"], columns["label"], strict=True):
            seen[image.tobytes()] = label
    assert seen == label_of
    assert "tensorflow" not in sys.modules


BUILDERS = """
import numpy as np
import tensorflow_datasets as tfds


class _Base(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(4, 4, 1)),
            "ragged": tfds.features.Tensor(shape=(None,), dtype=np.float32),
            "words": tfds.features.Text(),
            "parts": {"a": np.float32, "b": np.float32},
            "label": tfds.features.ClassLabel(num_classes=3),
        })
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _generate_examples(self):
        for i in range(9):
            yield i, {
                "image": np.full((4, 4, 1), i, np.uint8),
                "ragged": np.zeros(i, np.float32),
                "words": "one two",
                "parts": {"a": 1.0, "b": 2.0},
                "label": i % 3,
            }


class OwnPictures(_Base):
    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}


class OwnDownload(_Base):
    def _split_generators(self, dl_manager):
        dl_manager.download("https://example.invalid/thing.bin")
        raise AssertionError("not reached")
"""


@pytest.fixture
def own_builders(tmp_path, monkeypatch):
    """A module of the working directory, which isn't on the path."""
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(ROOT))])
    (tmp_path / "own_builders.py").write_text(BUILDERS)
    monkeypatch.chdir(tmp_path)
    from tensorflow_datasets.core import registered

    with registered.skip_registration():  # so that each test can import it anew
        yield "own_builders"
    sys.modules.pop("own_builders", None)


def test_a_users_own_builder(tmp_path, own_builders):
    data = load(tmp_path, name=f"{own_builders}:OwnPictures", batch_size=3)
    assert (len(data.train), data.classes) == (9, {"label": 3})
    images, labels = data.train.columns["input"], data.train.columns["label"]
    np.testing.assert_array_equal(images[:, 0, 0, 0] % 3, labels)
    assert (images == images[:, :1, :1]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "own_builders:OwnPicture"}, ["OwnPicture", "mean 'OwnPictures'?"]),
        ({"name": "own_bilders:OwnPictures"}, ["no module 'own_bilders'"]),
        ({"name": "own_builders:OwnDownload"}, ["thing.bin missing"]),
        ({"columns": {"x": "ragged"}}, ["columns.x='ragged'", "(None,)", "one size"]),
        ({"columns": {"x": "words"}}, ["data.columns.x='words'", "not numbers"]),
        ({"columns": {"x": "parts"}}, ["data.columns.x='parts'", "several tensors"]),
    ],
)
def test_a_mistake_with_an_own_builder(tmp_path, own_builders, changes, words):
    message = config_error(tmp_path, **{"name": "own_builders:OwnPictures"} | changes)
    for word in words:
        assert word in message
    assert not (tmp_path / "own_pictures").exists()  # told before preparing


def fashion_mnist_script(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "fashion_mnist.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_fashion_mnist_script_names_what_is_missing(tmp_path):
    done = fashion_mnist_script("--source", str(tmp_path), "--out", str(tmp_path / "o"))
    assert done.returncode == 1
    assert "ubyte.gz is missing: apt-get install dataset-fashion" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(
    not DEBIAN_FILES.is_dir(),
    reason=f"{DEBIAN_FILES} is absent: apt-get install dataset-fashion-mnist",
)
def test_the_real_fashion_mnist_by_tfds_own_builder(tmp_path):
    """About 20 s: 70,000 real pictures, checksums on, without TensorFlow."""
    files = tmp_path / "files"
    assert fashion_mnist_script("--out", str(files)).returncode == 0
    data = load(tmp_path, name="fashion_mnist", manual_dir=str(files), mode="memory")
    assert np.bincount(data.train.columns["label"]).tolist() == [6000] * 10
    assert np.bincount(data.splits["test"].columns["label"]).tolist() == [1000] * 10
    # The published mean and standard deviation of the training pixels.
    pixels = data.train.columns["input"] / np.float32(255)
    np.testing.assert_allclose(pixels.mean(), 0.2860, atol=1e-4)
    np.testing.assert_allclose(pixels.std(), 0.3530, atol=1e-4)
