import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.full import no_file_above
from runner.record.files import (
    MetricsFile,
    overwrite_json,
    read_metrics,
    to_json,
    write_json,
)
from runner.record.secrets import (
    forgotten,
    named,
    remember_environment,
    scrub,
    scrub_command,
    scrub_message,
)

_GONE = "password=<redacted>"


def strict(text: str):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_to_json_keeps_values_that_are_not_finite_apart():
    value = {"a": (math.nan, math.inf, -math.inf, 1.5), 1: Path("x"), "b": True}
    assert to_json(value) == {
        "a": ["NaN", "Infinity", "-Infinity", 1.5],
        "1": "x",
        "b": True,
    }
    assert to_json(np.float32(0.5)) == 0.5 and to_json(np.int32(3)) == 3
    assert to_json(np.float32("nan")) == "NaN"
    with pytest.raises(TypeError, match="object can't be recorded"):
        to_json({"a": object()})
    with pytest.raises(TypeError, match="ndarray"):
        to_json(np.zeros(3))


def test_write_json_replaces_whole_files_only(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"a": math.nan})
    assert strict(path.read_text()) == {"a": "NaN"}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert strict(path.read_text()) == {"a": "NaN"}
    assert os.listdir(tmp_path) == ["summary.json"]


def test_metrics_come_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"step": 1, "train/loss": 0.1},
        {"step": 2, "train/loss": math.inf, "validation/loss": -math.inf},
        {"step": 3, "train/loss": np.float32(0.5)},
    ]
    file = MetricsFile(path)
    for n, row in enumerate(rows, start=1):
        file.write(row)
        assert len(read_metrics(path)) == n  # on disk at once
    file.write({"step": 4, "train/loss": np.float32("nan")})
    file.close()
    *back, last = read_metrics(path)
    assert back == rows
    assert math.isnan(last["train/loss"])
    for line in path.read_text().splitlines():
        strict(line)


def test_torn_last_line_is_no_row_and_is_cut_off_before_appending(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "tra')
    assert read_metrics(path) == [{"step": 1}]
    file = MetricsFile(path)
    file.write({"step": 2})
    file.close()
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]


def test_a_row_for_which_there_is_no_space_leaves_nothing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.write({"step": 1})
    before = file.written()
    with no_file_above(path.stat().st_size + 5):  # the system takes 5 bytes of it
        with pytest.raises(OSError, match=r"File too large: .*metrics.jsonl"):
            file.write({"step": 2})
    assert read_metrics(path) == [{"step": 1}] and file.written() == before
    assert path.read_text() == '{"step": 1}\n'
    file.write({"step": 2})
    file.close()
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]


def test_a_deleted_file_is_no_place_for_rows(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write({"step": 1})
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(OSError, match="has been deleted"):
        file.write({"step": 2})
    file.close()


@pytest.mark.parametrize("size", [10, 4000])
def test_a_full_disk_names_the_file_and_keeps_the_old_one(tmp_path, size):
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    with no_file_above(size):
        if size > 100:
            write_json(path, {"a": "x" * 3000})
            overwrite_json(path, {"a": 2})  # in the space that it has
        with pytest.raises(OSError, match=r"File too large: .*summary\.json'"):
            write_json(path, {"a": "x" * 10_000})
        with pytest.raises(OSError, match="No space left"):
            overwrite_json(path, {"a": "x" * 10_000})
    assert strict(path.read_text()) == {"a": 2 if size > 100 else 1}
    assert os.listdir(tmp_path) == ["summary.json"]


@pytest.mark.parametrize("line", ["{", "3", "\x00", "[" * 100_000])
def test_broken_line_in_the_middle_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2: not a JSON object"):
        read_metrics(path)


def test_a_row_on_two_lines_is_none_though_another_line_has_two(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": [2\n2]}\n{"step": 3}, {"step": 4}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2: not a JSON object"):
        read_metrics(path)
    path.write_text(' {"step": 1}\r\n{"step": 2} \n')  # as an editor leaves it
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    file = MetricsFile(tmp_path / "metrics.jsonl")
    with pytest.raises(OSError, match="No space left"):
        file.write({"step": 1})
    file.close()


@pytest.mark.parametrize(
    "name",
    [
        *("key", "api_key", "WANDB_API_KEY", "apiKey", "apikey", "hf-token", "auth"),
        *("password", "db_passwd", "pwd", "userPwd", "passphrase", "client-secret"),
        *("credential", "oauth", "Authorization", "github_pat", "privateKey"),
        "access_tokens",
    ],
)
def test_secrets_are_redacted(name):
    assert scrub({"a": [{name: "x"}]}) == {"a": [{name: "<redacted>"}]}
    assert scrub([f"++data.{name}=x,y=1"]) == [f"++data.{name}=<redacted>,y=1"]


@pytest.mark.parametrize(
    "tree",
    [
        {"monkey": "x", "keyboard": "x", "max_tokens": "x", "tokenizer": "x"},
        {"path": "x", "pattern": "x", "author": "x", "patience": 3, "tokens": 3},
        {"commit": 40 * "0", "note": "sk-learn-is-a-long-name, https://host:80/a@b"},
        {"key": 3, "eos_token": 50256, "password": None, "key_bias": False},
        {"api_key": "${oc.env:API_KEY}"},
        {"token": {"size": 3}},
        {"program_key": "1f2e", "directions": {"token_accuracy": "max"}},
        ["optimizer=adam", "seed_key=3", "monkey=x", "api_key=${oc.env:A}"],
        "KeyError: 'a', or the key: b",
        "ConfigKeyError: optimizer.b1 refers to ${nope}",
        "Traceback\n    f(key=key, path=path)\nValueError: no x",
    ],
)
def test_everything_else_stays(tree):
    assert scrub(tree) == tree


def test_text_with_secrets_inside():
    assert scrub("+auth={api_key: abc, user: me}") == (
        "+auth={api_key: <redacted>, user: me}"
    )
    assert scrub("x.password='a b, c',lr=1") == "x.password=<redacted>,lr=1"
    assert scrub("x.password=12,token=12") == "x.password=<redacted>,token=12"
    assert scrub("storage=postgresql://me:pw@host/db") == (
        "storage=postgresql://me:<redacted>@host/db"
    )


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("notes='password: X'", "notes='password: <redacted>'"),
        ("run it --token X", "run it --token <redacted>"),
        ("a.passwords=[x,y],lr=1", "a.passwords=<redacted>,lr=1"),
        ("-m a.password=x,y", "-m a.password=<redacted>"),
        ("a.credentials={b: c, d: {e: f}},g=h", "a.credentials=<redacted>,g=h"),
        ("{'password': 'x', 'a': 'b'}", "{'password': <redacted>, 'a': 'b'}"),
        ("Authorization: Bearer x.y", "Authorization: <redacted>"),
        ("api_key=${oc.env:A,default}", "api_key=<redacted>"),
        (f"wandb login {40 * '0'}", "wandb login <redacted>"),
        ("https://me:p@ss@host/x", "https://me:<redacted>@host/x"),
        ("f\n  g(password=x)\nE: password=x", f"f\n  g({_GONE})\nE: {_GONE}"),
        (f"a ghp_{36 * 'x'} b", "a <redacted> b"),
    ],
)
def test_secrets_in_text(text, scrubbed):
    assert scrub(text) == scrubbed and scrub(scrubbed) == scrubbed
    assert scrub([{"a": text}]) == [{"a": scrubbed}]


def test_of_launches_in_threads_the_last_one_forgets():
    first, second = forgotten(), forgotten()
    first.__enter__()
    second.__enter__()
    scrub({"password": "of-the-second-one"})
    first.__exit__(None, None, None)
    assert "of-the" not in scrub_message("it is of-the-second-one")
    second.__exit__(None, None, None)
    assert "of-the" in scrub_message("it is of-the-second-one")


def test_what_a_launch_has_met_is_forgotten_at_its_end():
    text = "it began with correct-horse-9-staple"
    with forgotten():
        scrub({"api_key": "correct-horse-9-staple"})
        remember_environment("SOMEWHERE", "not-to-be-shown")
        assert scrub(text) == "it began with <redacted>"
        assert scrub_message("not-to-be-shown") == "<redacted>"
    assert scrub(text) == text
    assert scrub_message("not-to-be-shown") == "not-to-be-shown"


def test_secrets_in_lists_and_mappings():
    tree = {"passwords": ["x", {"y": 1}], "secret": {"a": [2], "b": None}}
    assert scrub(tree) == {
        "passwords": ["<redacted>", {"y": "<redacted>"}],
        "secret": {"a": ["<redacted>"], "b": None},
    }
    wandb = {"notes": 40 * "0", "tags": [f"a {40 * '0'}"]}
    assert scrub({"wandb": wandb}) == {
        "wandb": {"notes": "<redacted>", "tags": ["a <redacted>"]}
    }


def test_a_secret_is_known_without_its_name():
    assert scrub({"url": "x?y=corr3ct-horse", "password": "corr3ct-horse"}) == {
        "url": "x?y=<redacted>",
        "password": "<redacted>",
    }
    assert scrub_message("wrong: 'corr3ct-horse'") == "wrong: '<redacted>'"
    remember_environment("LAB_HOST", "gpu-17.lab")
    assert scrub_message("no answer from gpu-17.lab") == "no answer from <redacted>"
    assert scrub(["gpu-17.lab"]) == ["gpu-17.lab"]  # a hostname in the provenance


def test_names_differ_where_their_secrets_do():
    one, other = named("lr=1,a.password=x"), named("lr=1,a.password=y")
    assert one != other and named(one) == one == scrub(one)
    assert one.startswith("lr=1,a.password=<redacted>-") and named("lr=1") == "lr=1"


def test_long_text_is_searched_quickly():
    for text in ("a" * 10**6, "a=" * 10**5, "password=" + "'" * 10**4, "x://" * 10**4):
        started = time.monotonic()
        scrub(text)
        assert time.monotonic() - started < 5


def test_commands():
    argv = ["runner", "--api-key", "abc", "--key", "api_token=abc", "lr=0.1"]
    assert scrub_command(argv) == [
        *["runner", "--api-key", "<redacted>", "--key", "<redacted>", "lr=0.1"]
    ]
