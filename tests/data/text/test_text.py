"""Text becomes windows of tokens, the same ones in every mode and after each start."""

import itertools
import os
import re

import jax
import numpy as np
import pytest

from helpers.packed import alone, assert_close, together
from helpers.published import SHAKESPEARE, needs_shakespeare
from helpers.text import POEM
from runner.data import digest
from runner.data.batches import train_batches
from runner.data.digest import data_digest
from runner.data.text import encoded, pieces
from runner.data.transforms import transformed
from runner.errors import ConfigError

MODES = ("device", "memory", "stream")


def every_row(data, name):
    return data.splits[name].rows(np.arange(len(data.splits[name])))


def batch(data, name):
    """All examples of a split as a model gets them."""
    found = transformed(data.transforms, every_row(data, name), None)
    return {k: np.asarray(v) for k, v in found.items()}


def spelled(tokens, alphabet):
    return "".join(alphabet[i] for i in tokens)


def test_a_random_window_is_a_piece_of_the_text_and_what_follows(made):
    data = made()
    found, alphabet = batch(data, "train"), sorted(set(POEM))
    assert data.classes == {"tokens": len(alphabet), "next": len(alphabet)}
    train = POEM[: int(0.8 * len(POEM))]
    assert len(data.train) == len(train) - 8
    for at in (0, 17, len(train) - 9):
        assert spelled(found["tokens"][at], alphabet) == train[at : at + 8]
        assert spelled(found["next"][at], alphabet) == train[at + 1 : at + 9]
    assert (found["mask"] == 1).all() and found["mask"].dtype == np.float32
    assert found["tokens"].dtype == np.int32


@pytest.mark.parametrize("windows", ["random", "epoch"])
@pytest.mark.parametrize("length", [1, 7, 8])
def test_a_held_out_split_predicts_every_token_but_the_first_once(
    made, windows, length
):
    data = made(block_size=length, test=0.1, windows=windows)
    alphabet = sorted(set(POEM))
    cuts = [int(0.7 * len(POEM)), int((1 - 0.1 - 0.2) * len(POEM))]
    assert cuts[1] - cuts[0] in (0, 1)  # the rounding of fractions
    splits = {"validation": POEM[cuts[1] : int(0.9 * len(POEM))]}
    splits["test"] = POEM[int(0.9 * len(POEM)) :]
    if windows == "epoch":
        splits["train"] = POEM[: cuts[1]]
    for name, expected in splits.items():
        found = batch(data, name)
        assert spelled(found["next"][found["mask"] == 1], alphabet) == expected[1:]


def test_all_modes_give_the_same_batches_and_digests(made):
    for changes in ({}, {"windows": "epoch"}, {"documents": "lines"}):
        sets = [made(mode=mode, **changes) for mode in MODES]
        order = sets[0].order(3, None)
        for name in ("train", "validation"):
            same = [every_row(data, name) for data in sets]
            jax.tree.map(np.testing.assert_array_equal, *same[:2])
            jax.tree.map(np.testing.assert_array_equal, *same[1:])
        for data in sets:
            assert data.order(3, None) == order
        (one,) = {str(data_digest(data)) for data in sets}
        assert "contents" in one


def test_draws_are_a_function_of_the_seed_and_the_step(made):
    data = made()
    order = data.order(0, None)
    assert order.steps_per_epoch == int(0.8 * len(POEM)) // 8 // 4
    rows = order.indices(5, 2000)
    assert (rows[3] == data.order(0, None).indices_at(8)).all()
    assert (rows[3] != data.order(1, None).indices_at(8)).any()
    assert rows.min() >= 0 and rows.max() < len(data.train)
    assert len(set(rows.ravel().tolist())) == len(data.train)  # any may be drawn
    once = data.order(0, 2)
    assert (once.indices_at(0) == once.indices_at(2)).all()
    same = made(reshuffle=False).order(0, None)
    assert (same.indices_at(1) == same.indices_at(1 + same.steps_per_epoch)).all()


def test_nothing_is_predicted_across_the_end_of_a_document(made):
    data = made(documents="paragraphs", windows="epoch", validation=None)
    found = batch(data, "train")
    alphabet = [*sorted(set(POEM)), "$"]
    predicted = spelled(found["next"][found["mask"] == 1], alphabet)
    assert predicted == "".join(f"{each[1:]}$" for each in POEM.split("\n\n"))


def test_a_share_is_cut_where_a_document_ends(made):
    data = made(documents="lines", windows="epoch")
    first = batch(data, "validation")["tokens"][0]
    alphabet = sorted(set(POEM.replace("\n", "")))
    assert any(line.startswith(spelled(first, alphabet)) for line in POEM.split("\n"))


@pytest.mark.parametrize("size", [1, 2, 3, 2**22])
@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        (None, "äaabb\n\n\nbc\n\nüü|"),
        ("files", "äaabb\n\n\nbc\n\n$üü|$"),
        ("lines", "äaabb$bc$üü|$"),
        ("paragraphs", "äaabb$\nbc$üü|$"),
        ("bb", "äaa$\n\n\nbc\n\n$üü|$"),
        ("|", "äaabb\n\n\nbc\n\n$üü$"),
    ],
)
def test_documents_wherever_the_pieces_end(
    tmp_path, monkeypatch, size, as_bytes, documents, expected
):
    monkeypatch.setattr(pieces, "PIECE", size)
    files = [tmp_path / "one", tmp_path / "two"]
    files[0].write_text("äaabb\n\n\nbc\n\n")
    files[1].write_text("üü|")
    found = "".join(pieces.pieces(files, documents, as_bytes=as_bytes))
    found = found.replace(pieces.END, "$")
    if as_bytes:
        found = found.encode("latin-1").decode()
    assert found == expected


@pytest.mark.parametrize("size", [1, 2, 3, 4, 2**22])
@pytest.mark.parametrize("line", ["\r\n", "\r"])
@pytest.mark.parametrize("documents", [None, "lines", "paragraphs", "b\r\n"])
def test_text_of_other_systems_is_the_same_text(
    tmp_path, monkeypatch, size, line, documents
):
    monkeypatch.setattr(pieces, "PIECE", size)
    text = "äa\nab\n\nbc\n\n\nd\n"
    files = [tmp_path / "here", tmp_path / "there"]
    files[0].write_bytes(text.encode())
    files[1].write_bytes(("\ufeff" + text.replace("\n", line)).encode())
    here, there = (
        "".join(pieces.pieces([file] * 2, documents, as_bytes=False)) for file in files
    )
    assert there == here
    assert (pieces.END in here) == (documents is not None)


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        (None, "\ufeffa\r\nb\r\n\r\nc"),
        ("files", "\ufeffa\r\nb\r\n\r\nc$"),
        ("lines", "\ufeffa$b$c$"),
        ("paragraphs", "\ufeffa\nb$c$"),
    ],
)
def test_bytes_stay_but_for_the_line_ends_between_documents(
    tmp_path, documents, expected
):
    (tmp_path / "text").write_bytes("\ufeffa\r\nb\r\n\r\nc".encode())
    found = "".join(pieces.pieces([tmp_path / "text"], documents, as_bytes=True))
    found = found.replace(pieces.END, "$").encode("latin-1").decode()
    assert found == expected


def test_bytes_are_the_text_itself(made, tmp_path):
    (tmp_path / "poem.txt").write_bytes(bytes(range(256)) * 2)
    data = made(vocabulary="bytes", validation=None, windows="epoch", block_size=511,
                batch_size=1)  # fmt: skip
    found = batch(data, "train")
    assert data.classes["next"] == 256
    assert bytes(found["next"][0].tolist()) == (bytes(range(256)) * 2)[1:]


def test_a_split_may_have_text_of_its_own_and_shares_the_vocabulary(made, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "b.txt").write_text("zebra")
    (tmp_path / "own" / "a.md").write_text("quite a ")
    (tmp_path / "own" / ".hidden").write_text("#")
    data = made(validation=str(tmp_path / "own"), windows="epoch")
    alphabet = sorted(set(POEM + "quite a zebra"))
    found = batch(data, "validation")
    assert spelled(found["next"][found["mask"] == 1], alphabet) == "uite a zebra"
    found = batch(data, "train")
    assert spelled(found["next"][found["mask"] == 1], alphabet) == POEM[1:]
    assert made(validation=str(tmp_path / "own" / "*.txt")).classes != data.classes


def test_text_is_encoded_once_and_again_if_it_or_its_tokens_change(
    made, tmp_path, monkeypatch
):
    times = []
    write = encoded._write
    monkeypatch.setattr(
        encoded, "_write", lambda *given: (times.append(1), write(*given))
    )
    before = made().contents
    assert made(validation=0.5).contents == before and len(times) == 1
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    for damage in (b"", whole[:30], whole[:-1], b"x" + whole[1:], whole + b"x"):
        kept.write_bytes(damage)
        assert made().contents == before
        assert kept.read_bytes()[:100] == whole[:100]
    assert len(times) == 6
    file = tmp_path / "poem.txt"
    stat = file.stat()
    file.write_text(POEM.replace("owl", "awl"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a copy may have
    assert made().contents != before
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [kept.name]


def test_large_text_is_known_by_its_files(made, monkeypatch, tmp_path):
    monkeypatch.setattr("runner.data.text.dataset.LARGEST", 100)
    monkeypatch.setattr(digest, "LARGEST", 100)
    (one,) = data_digest(made(mode="stream"))["files"]
    assert one["path"] == str((tmp_path / "poem.txt").resolve())


MISTAKES = [
    ({"vocabulary": "character"}, "data.vocabulary=character .* Did you mean 'chara"),
    ({"block_size": 0}, "data.block_size=0 must be a whole number of at least 1"),
    ({"block_size": 5000}, "data.block_size=5000: the text of the split train has"),
    ({"windows": "epochs"}, "data.windows=epochs must be .* Did you mean 'epoch'"),
    ({"validation": 1.0}, "data.validation=1.0 must be a fraction"),
    ({"validation": 0.6, "test": 0.4}, "leave nothing to train on"),
    ({"validation": 0.001}, "the split validation has 1 tokens, and needs 2"),
    ({"path": "poem.text"}, "data.path=.*poem.text is no file.* Did you mean 'poem.t"),
    ({"validation": "poem.text"}, "data.validation=.*poem.text is no file"),
    ({"path": "empty"}, "data.path=.*empty holds no file"),
    ({"path": ""}, "data.path is empty"),
    ({"path": "latin.txt"}, "latin.txt is not text in UTF-8.*data.vocabulary=bytes"),
    ({"data_dir": "poem.txt"}, "data.data_dir=.*poem.txt can't be written"),
    ({"data_dir": "/proc/none/cache"}, "data.data_dir=/proc/none/cache can't be wr"),
    ({"mode": "device", "memory": 100}, "data.mode=device takes .*mode=stream reads"),
    ({"documents": ""}, "data.documents is empty"),
    ({"batch_size": 500}, "data.batch_size=500 is larger than the"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_a_mistake_is_told_and_nothing_is_left(
    made, tmp_path, monkeypatch, changes, message
):
    changes = dict(changes)
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.txt").write_bytes("für".encode("latin-1"))
    if memory := changes.pop("memory", None):
        monkeypatch.setattr("runner.data.dataset.host_memory", lambda: memory)
    paths = ("path", "data_dir", "validation")
    changes = {
        k: str(tmp_path / v) if k in paths and isinstance(v, str) and v else v
        for k, v in changes.items()
    }
    with pytest.raises(ConfigError, match=re.compile(message, re.DOTALL)):
        made(**changes)
    assert not list(tmp_path.glob("**/.*"))


@needs_shakespeare
def test_tiny_shakespeare_is_that_of_nanogpt(made):
    """Of its data/shakespeare_char/prepare.py: 65 characters, 90 % for training."""
    data = made(path=str(SHAKESPEARE), block_size=64, validation=0.1)
    assert data.classes["tokens"] == 65
    assert len(data.train) == 1_003_854 - 64
    assert every_row(data, "validation")["size"].sum() == 111_540 - 1


TINY = (
    "data=text", "framework=jax", "model=transformer", "model.width=16",
    "model.heads=2", "model.layers=1", "data.block_size=8", "data.batch_size=8",
    "train.epochs=null", "train.steps=6", "train.log_every_steps=1",
    "train.eval_every_steps=3",
)  # fmt: skip


@pytest.fixture
def poem(tmp_path):
    (tmp_path / "poem.txt").write_text(POEM)
    return (*TINY, f"data.path={tmp_path}/poem.txt")


@pytest.mark.parametrize(
    "windows", ["random", pytest.param("epoch", marks=pytest.mark.nightly)]
)
def test_each_mode_trains_alike(trained, poem, windows):
    given = (*poem, f"data.windows={windows}")
    rows = {mode: trained(*given, f"data.mode={mode}") for mode in MODES}
    first = rows["device"][0]["train/loss"]
    assert first == pytest.approx(np.log(len(set(POEM))), rel=0.05)
    for mode in MODES[1:]:
        assert_close(rows[mode], rows["device"])


def test_members_of_a_population_draw_their_own_windows(built, poem):
    runs = [built(*poem, f"seed={seed}") for seed in (0, 1)]
    rows, _ = together(runs)
    assert rows[0] != rows[1]
    for run, found in zip(runs, rows, strict=True):
        assert_close(found, alone(run))


def test_batches_continue_at_any_step(made):
    data = made(mode="stream")
    order = data.order(0, None)
    whole = itertools.islice(train_batches(data, order, 0), 30)
    later = itertools.islice(train_batches(data, order, 7), 23)
    for one, other in zip(itertools.islice(whole, 7, None), later, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.nightly
def test_a_resumed_run_has_the_same_batches(tmp_path, ran, poem):
    given = ("~model.hidden_sizes", *poem, "data.mode=stream")
    saved = (*given, "checkpoint.every_steps=2")
    whole = ran(tmp_path / "whole", *given)
    ran(tmp_path / "killed", *saved, stop=5)
    assert ran(tmp_path / "killed", *saved) == whole
