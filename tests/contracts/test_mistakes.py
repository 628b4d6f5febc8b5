"""A mistake is one message, with key, value and rule, before anything is trained.

Of those of a kind, which stand together in their tables, a part is tested always.
"""

import os
from pathlib import Path

import pytest

from helpers.at_night import one_in
from helpers.forked import python
from helpers.mistaken.command_lines import COMMAND_LINES
from helpers.mistaken.files import EXPERIMENTS, FILES, HEAD, OF_DEFAULTS
from helpers.mistaken.runs import BARE, RUNS
from helpers.mistaken.values import VALUES
from runner.cli import MISTAKES, main
from runner.config.explain import explain
from runner.job.check import check

AS_TEXT = {"ids": lambda part: str(part)}


def test_two_hundred_are_tried():
    count = sum(map(len, (COMMAND_LINES, FILES, OF_DEFAULTS, RUNS, VALUES)))
    assert count >= 200


@pytest.fixture
def told(monkeypatch, tmp_path, capsys):
    """The message of a command that ends before it trains."""

    def told(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr("sys.argv", ["runner", *arguments])
        monkeypatch.setattr("runner.job.run.run_job", None)
        places = "hydra._internal.hydra", "hydra.core.utils", "runner.sweep.launch"
        for module in places:
            # It would close the handlers of pytest.
            monkeypatch.setattr(f"{module}.configure_log", lambda *given: None)
        with pytest.raises(SystemExit) as caught:
            main()
        assert "Traceback" not in capsys.readouterr().err
        left = {path.name for path in tmp_path.rglob("*")}
        assert not left & {"summary.json", "multirun.yaml", "multirun"}
        message = str(caught.value.code)
        assert message.startswith("error: ")
        return message

    return told


@pytest.mark.parametrize("case", one_in(2, COMMAND_LINES), **AS_TEXT)
def test_in_a_command_line(told, case):
    arguments, *said = case
    message = told(*_split(arguments))
    assert all(part in message for part in said), message
    assert message.count("\n") <= 1 and "search path:" not in message


def _split(arguments: str) -> list[str]:
    """The arguments; a space within one is followed by no key, group or flag."""
    parts: list[str] = []
    for part in arguments.split():
        if parts and (parts[-1].count("{") > parts[-1].count("}") or _is_open(parts)):
            parts[-1] += f" {part}"
        else:
            parts.append(part)
    return parts


def _is_open(parts: list[str]) -> bool:
    return parts[-1].count("'") % 2 == 1


@pytest.fixture
def in_a_file(told, tmp_path):
    """The message where a file of one's own, conf/model/bad.yaml, is chosen."""

    def in_a_file(content: str | bytes, *arguments: str) -> str:
        folder = tmp_path / "conf/model"
        folder.mkdir(parents=True)
        content = content.encode() if isinstance(content, str) else content
        (folder / "bad.yaml").write_bytes(content)
        (folder / "worse.yaml").write_text("defaults: [bad]\n", encoding="utf-8")
        message = told("--config-dir", "conf", "model=bad", *arguments)
        assert "\n" not in message
        return message

    return in_a_file


@pytest.mark.parametrize("case", FILES.values(), ids=FILES)
def test_in_a_file_it_is_named_with_the_line(in_a_file, tmp_path, case):
    content, *said = case
    message = in_a_file(content)
    assert message.startswith(f"error: {tmp_path}/conf/model/bad.yaml")
    assert all(part in message for part in said), message


@pytest.mark.parametrize("case", OF_DEFAULTS.values(), ids=OF_DEFAULTS)
def test_in_a_list_of_defaults(in_a_file, case):
    content, *said = case
    message = in_a_file(content)
    assert all(part in message for part in said), message


@pytest.mark.parametrize("case", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_in_an_experiment(tmp_path, told, case):
    content, *said = case
    file = tmp_path / "conf" / "experiment" / "bad.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    message = told("--config-dir", "conf", "experiment=bad", "print=config")
    assert message.startswith("error: ") and "composing config" not in message
    assert all(part in message for part in said), message


def test_a_file_with_another_ending(tmp_path, told):
    file = tmp_path / "conf" / "model" / "mine.yml"
    file.parent.mkdir(parents=True)
    file.write_text(HEAD)
    message = told("--config-dir", "conf", "model=mine")
    assert f"{file} is there: name it mine.yaml" in message


def test_a_choice_in_the_place_of_its_section(composed):
    cfg = composed()
    cfg.model = "cnn"  # as `model: cnn` in an experiment does
    with pytest.raises(MISTAKES, match=r"model=cnn must be.*`- override /model: cnn`"):
        check(cfg)


@pytest.mark.parametrize("where", ["file:///nowhere", "pkg://no.pkg", "nowhere"])
def test_in_a_search_path(in_a_file, where):
    message = in_a_file(HEAD, f"hydra.searchpath=['{where}']")
    assert f"{where}, which is not" in message


@pytest.mark.parametrize("case", one_in(3, VALUES), **AS_TEXT)
def test_in_a_value(composed, case):
    overrides, rule = case
    key, _, value = overrides.split()[-1].partition("=")
    with pytest.raises(MISTAKES) as caught:
        check(composed(*overrides.split()))
    told = explain(caught.value)
    assert told.startswith(f"{key}=") and value[1:2] in told and rule in told, told
    assert "\n" not in told and len(told) < 300


@pytest.mark.parametrize("case", one_in(2, RUNS), **AS_TEXT)
def test_in_what_a_run_is_made_of(built, case):
    overrides, *said = case
    with pytest.raises(MISTAKES) as caught:
        built(*_split(overrides.replace("model={}", BARE)))
    told = explain(caught.value)
    assert all(part in told for part in said), told
    assert told.count("\n") <= 1 and len(told) < 500


NIGHT = pytest.mark.nightly
COMMANDS = [
    ("hydra.run.dir=/dev/null/x", ["run folder can't be written", "/dev/null/x"]),
    ("-m seed=0,1 hydra.sweep.dir=/dev/null/x", ["run folder can't be written"]),
    ("-m optimizer=sgd,adamm", ["Did you mean 'adam'?"]),
    ("-m train.steps=1,abc", ["train.steps=abc must be a whole number or null"]),
    *(
        pytest.param(arguments, [said], marks=NIGHT)
        for arguments, said in (
            ("optimizer.b1=2", "optimizer.b1=2 must be at least 0 and below 1"),
            ("--config-dir conf model=bad", "conf/model/bad.yaml, line 2: found"),
            ("model.hidden_sizes=[1000000000]", "75,000,000,010 parameters"),
            ("-m seed=range(1000000)", "1,000,000 jobs"),
            ("--foo", "unrecognized arguments: --foo"),
            ("data=linear_ae task=classification", "needs labels"),
        )
    ),
]


@pytest.mark.parametrize(("arguments", "said"), COMMANDS, **AS_TEXT)
def test_as_a_command(tmp_path, folders, arguments, said):
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/bad.yaml").write_text(f"{HEAD}\twidth: 3\n")
    cache = [f"compilation_cache={folders['xla']}"] * (arguments[:3] != "--f")
    env = os.environ | {"PYTHONPATH": _path(), "TFDS_DATA_DIR": str(folders["data"])}
    done = python("-m", "runner", *arguments.split(), *cache, cwd=tmp_path, env=env)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") <= 2
    assert all(text in done.stderr for text in said), done.stderr
    assert not list(tmp_path.rglob("metrics.jsonl"))


def _path() -> str:
    return f"{os.environ.get('PYTHONPATH', '')}:{Path(__file__).parents[1]}"
