"""Folders that somebody else may have prepared, beside good ones."""

import csv
import json
import os
import socket
import time

import pytest

from helpers.compare_runs import write_run
from runner.compare.__main__ import main
from runner.compare.load import load

DEEP = "[" * 10_000 + "]" * 10_000


def _text(name, text):
    return lambda folder: (folder / name).write_text(text)


def _made(name, make):
    def replace(folder):
        (folder / name).unlink()
        make(folder / name)

    return replace


def _listens(path):
    here = os.getcwd()
    os.chdir(path.parent)  # an address has at most 108 bytes
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(path.name)
    os.chdir(here)


def _giant(path):
    with path.open("wb") as file:
        file.truncate(300 << 20)  # takes no space


HOSTILE = {
    "pipe config": _made("config.json", os.mkfifo),
    "pipe rows": _made("metrics.jsonl", os.mkfifo),
    "device": _made("summary.json", lambda path: path.symlink_to("/dev/zero")),
    "terminal": _made("metrics.jsonl", lambda path: path.symlink_to("/dev/tty")),
    "socket": _made("provenance.json", _listens),
    "loop": _made("config.json", lambda path: path.symlink_to(path.name)),
    "folder": _made("metrics.jsonl", os.mkdir),
    "deep config": _text("config.json", f'{{"a": {DEEP}}}'),
    "deep rows": _text("metrics.jsonl", f'{{"a": {DEEP}}}\n'),
    "level 500": _text("config.json", '{"a": ' * 500 + "1" + "}" * 500),
    "giant json": _made("summary.json", _giant),
    "giant rows": _made("metrics.jsonl", _giant),
    "many keys": _text(
        "config.json", json.dumps(dict.fromkeys(map(str, range(10**5))))
    ),
    "many columns": _text(
        "metrics.jsonl", "".join(f'{{"step": 1, "m{i}": 1}}\n' for i in range(5000))
    ),
    "rows": _text("metrics.jsonl", "[1]\n3\n"),
    "list": _text("config.json", "[]"),
    "text": _text("provenance.json", '"\x1b[2J"'),
    "bytes": lambda folder: (folder / "summary.json").write_bytes(b"\xff\x00"),
    "huge number": _text("summary.json", '{"final": {"a": 1' + "0" * 5000 + "}}"),
    "directions": _text("provenance.json", '{"directions": {"loss": ["up"]}}'),
}


@pytest.fixture
def good(tmp_path):
    for seed in range(3):
        write_run(tmp_path / "runs" / f"good-{seed}", seed=seed)
    return tmp_path / "runs"


def test_compare_names_hostile_folders_and_goes_on(good, tmp_path, capsys):
    assert len(HOSTILE) == 20
    for name, spoil in HOSTILE.items():
        spoil(write_run(good / name))
    started = time.monotonic()
    out = tmp_path / "out"
    arguments = [str(good), str(tmp_path / "gone"), "--out", str(out), "--no-report"]
    assert main([*arguments, "--by", "seed"]) == 0
    assert time.monotonic() - started < 10
    shown = capsys.readouterr().out
    for name in HOSTILE:
        (line,) = (x for x in shown.splitlines() if f"/{name}: " in x)
        assert line.startswith("warning: not read: ") and len(line) < 500
    assert f"not read: {tmp_path}/gone is not a folder" in shown
    assert "300 MiB; at most 256 MiB are read" in shown
    with (out / "runs.csv").open() as file:
        names = [row["run"] for row in csv.DictReader(file)]
    assert names == ["good-0", "good-1", "good-2"]


TYPES = {
    "final": {"validation/loss": "0.3", "a": [1], "b": {"c": 1}, "d": True},
    "best": {"validation/loss": {"value": [], "step": {}}},
    "status": ["x"],
    "wall_seconds": "1.5",
    "error": {"a": 1},
}


def test_values_of_wrong_types_are_none(good):
    folder = write_run(good / "odd", config={"seed": {"a": 1}, "big": 2**70})
    (folder / "summary.json").write_text(json.dumps(TYPES))
    rows = '{"step": 1, "m": "0.5"}\n{"step": 2, "m": [1]}\n{"step": "3"}\n'
    (folder / "metrics.jsonl").write_text(rows)
    table = load([good]).table
    (row,) = (row for row in table.rows(named=True) if row["run"] == "odd")
    assert row["seed"] is None and row["wall_seconds"] is None
    assert [row[f"final.{name}"] for name in ("validation/loss", "a", "d")] == 3 * [
        None
    ]


@pytest.mark.parametrize(
    "code", ["\x1b[31m", "\x9b2J", "\x07", "\r", "\u202e", "\ud800"]
)
def test_no_control_character_reaches_a_terminal_or_a_table(
    good, tmp_path, capsys, code
):
    # Half a surrogate pair can't be in a file's name; in JSON it can.
    name = f"evil{code if code != chr(0xD800) else ''}"
    for seed in range(3):
        odd = {f"optimizer.x{code}": f"a{code}b", "objective": "validation/loss"}
        write_run(good / f"{name}-{seed}", seed=seed, config=odd, optimizer=f"o{code}")
    write_run(good / f"dead{name}", status=f"failed{code}")
    (write_run(good / f"bad{name}") / "config.json").write_text("[]")
    out = tmp_path / "out"
    assert main([str(good), "--by", "optimizer", "--out", str(out), "--no-report"]) == 0
    told = capsys.readouterr()
    written = (out / "runs.csv").read_text()
    assert code not in told.out + told.err + written
    assert code.encode("unicode_escape").decode() in told.out
    assert main([str(good), "--by", f"a{code}", "--out", str(out), "--no-report"]) == 1
    assert code not in capsys.readouterr().err


CODE = "<img src=x onerror=alert(1)>\x1b]0;x\x07\u202e</script>"


@pytest.mark.nightly  # seven figures; NASTY in test_report is in the page always
def test_a_page_shows_names_as_text(good, tmp_path, capsys):
    """Of runs, keys, groups and metrics, whichever part of the page shows them."""
    for optimizer, rate in ((CODE, 0.1), (CODE, 0.2), ("adam", 0.1), ("adam", 0.2)):
        for seed in range(3):
            folder = good / f"{CODE.replace('/', '')} {optimizer[:1]} {rate} {seed}"
            odd = {f"model.{CODE}": f"{CODE}{rate}", "optimizer.learning_rate": rate}
            write_run(folder, seed=seed, config=odd, optimizer=optimizer)
    (write_run(good / f"bad {CODE.replace('/', '')}") / "config.json").write_text("[]")
    out = tmp_path / "out"
    assert main([str(good), "--by", "optimizer", "--out", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "onerror=alert(1)" in page  # shown,
    assert "<img src=x" not in page  # but as text
    assert not set("\x1b\x07\u202e") & set(page)


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+2", "'=1+2"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1", "' =1"),
        ("\t=1", "\\t=1"),
        ("-1.5e-3", "-1.5e-3"),
        (-1.5, "-1.5"),
        ("a=b", "a=b"),
    ],
)
def test_no_cell_is_a_formula(good, tmp_path, value, cell):
    write_run(good / "odd", config={"odd": value, "=key": 1})
    out = tmp_path / "out"
    assert main([str(good), "--by", "seed", "--out", str(out), "--no-report"]) == 0
    with (out / "runs.csv").open() as file:
        (row,) = (row for row in csv.DictReader(file) if row["run"] == "odd")
    assert row["odd"] == cell and row["'=key"] == "1"
