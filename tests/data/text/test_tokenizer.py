"""A tokenizer of one's own: the tokens of the whole text, whatever the pieces."""

import importlib.metadata
import json
import re
import sys

import numpy as np
import pytest

from helpers.text import POEM
from runner.data.text import pieces, tokenizer
from runner.errors import ConfigError

TEXT = POEM + "few   spaces, a tab\tand \n lines\r\nthat end.\n \n\n\nIn ü, 語\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A byte-level BPE as GPT-2's, trained on the poem, which truncates texts."""
    tokenizers = pytest.importorskip("tokenizers", reason="the extra text is missing")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=279, special_tokens=["<|end|>"], initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator([POEM], trainer)
    made.add_tokens(["lines"])
    made.enable_truncation(4)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


@pytest.fixture
def whole(file):
    """The tokens of a text in one go, read as Python does."""
    import tokenizers

    found = tokenizers.Tokenizer.from_file(str(file))
    found.no_truncation()
    return lambda text: found.encode(text.replace("\r\n", "\n")).ids


@pytest.mark.parametrize("size", [1, 50, 2**22])
def test_pieces_have_the_tokens_of_the_whole(
    file, whole, monkeypatch, made, tmp_path, size
):
    monkeypatch.setattr(pieces, "PIECE", size)
    (tmp_path / "poem.txt").write_text(TEXT * 3, newline="")
    data = made(vocabulary=str(file), validation=None, windows="epoch", block_size=4)
    found = data.train.rows(np.arange(len(data.train)))["text"]
    tokens = [*found[:-1, :-1].ravel(), *found[-1]]
    expected = whole(TEXT * 3)
    assert tokens[: len(expected)] == expected
    assert len(expected) < 2 * len(TEXT)
    assert data.classes["tokens"] == 280


@pytest.mark.parametrize(
    ("documents", "size"), [("<|end|>", 280), ("\n\n", 281), ("lines", 281)]
)
def test_the_end_of_a_document_is_a_token_of_its_own_if_it_has_one(
    file, whole, made, tmp_path, documents, size
):
    between = pieces.NAMED.get(documents, documents)
    (tmp_path / "poem.txt").write_text(between.join(["the owl", "a boat"]))
    data = made(vocabulary=str(file), validation=None, windows="epoch", block_size=2,
                documents=documents, batch_size=1)  # fmt: skip
    end = 0 if size == 280 else 280
    assert data.classes["next"] == size
    expected = [*whole("the owl"), end, *whole("a boat"), end]
    found = data.train.rows(np.arange(len(data.train)))["text"]
    tokens = [*found[:-1, :-1].ravel(), *found[-1]]
    assert tokens[: len(expected)] == expected


def test_another_tokenizer_gives_other_tokens(file, made, tmp_path):
    copy = tmp_path / "tokenizer.json"
    copy.write_bytes(file.read_bytes())
    first = made(vocabulary=str(copy))
    assert first.contents == made(vocabulary=str(copy)).contents
    changed = json.loads(copy.read_text())
    changed["model"]["merges"] = changed["model"]["merges"][:2]
    copy.write_text(json.dumps(changed))
    assert made(vocabulary=str(copy)).contents != first.contents


def test_a_tokenizer_of_whole_words_may_lack_one(made, tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="the extra text is missing")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "?"))
    words.save(str(tmp_path / "words.json"))
    with pytest.raises(ConfigError, match=r"words.json: a token can't be found: "):
        made(vocabulary=str(tmp_path / "words.json"))
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match=r"text of the split \w+ has 0 tokens"):
        made(vocabulary=str(tmp_path / "none.json"))


def test_a_text_without_a_safe_place_is_cut_somewhere(monkeypatch):
    monkeypatch.setattr(tokenizer, "_MOST", 10)
    assert tokenizer._place("one\ntwo\n\nthree") == 4
    assert tokenizer._place("no line at all") == 14
    assert tokenizer._place("no line") == 0
    assert tokenizer._place(f"a\nb{pieces.END}c") == 4


def test_mistakes(made, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"charcters must .* Did you mean 'char"):
        made(vocabulary="charcters")
    path = tmp_path / "no.json"
    path.write_text("{}")
    version = importlib.metadata.version

    def missing(name):
        if name == "tokenizers":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", missing)
        message = re.escape("needs the package tokenizers: pip install 'jax-experiment")
        with pytest.raises(ConfigError, match=message):
            made(vocabulary=str(path))
    pytest.importorskip("tokenizers", reason="the extra text is missing")
    with pytest.raises(ConfigError, match=r"no.json is no tokenizer.json: "):
        made(vocabulary=str(path))
    assert "tokenizers" in sys.modules and not list(tmp_path.glob("cache/.*"))
