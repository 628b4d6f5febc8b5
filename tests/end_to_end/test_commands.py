"""The first argument of `python -m runner` and of `runner`."""

import importlib
import subprocess
import sys

import pytest

from runner import __main__ as program


@pytest.mark.parametrize("name", program.COMMANDS)
def test_a_command_is_its_module(name, monkeypatch):
    module, given = importlib.import_module(program.COMMANDS[name]), []
    monkeypatch.setattr(module, "main", lambda: given.append(sys.argv[1:]))
    monkeypatch.setattr("sys.argv", ["runner", name, "--some", "folder"])
    with pytest.raises(SystemExit):
        program.main()
    assert given == [["--some", "folder"]]


def test_another_word_is_no_command_and_the_nearest_is_named(monkeypatch):
    monkeypatch.setattr("sys.argv", ["runner", "comprae", "x"])
    with pytest.raises(SystemExit, match=r"neither a command.*Did you mean 'compare'"):
        program.main()


def test_the_console_script_finds_a_users_modules(tmp_path):
    (tmp_path / "its_model.py").write_text("raise RuntimeError('it was found')\n")
    script = "from runner.__main__ import script; script()"
    done = subprocess.run(
        [sys.executable, "-c", script, "model._target_=its_model.model"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "it was found" in done.stderr


@pytest.mark.parametrize(
    "name, arguments, near",
    [
        ("audit", "x --config-dr .", "--config-dir"),
        ("compare", "x --metrc loss --targt 1", "--metric'? Did you mean '--target"),
        ("evaluate", "x --conf-dir .", "--config-dir"),
        ("export", "x --out y --trusst", "--trust"),
        ("list", "x --sart loss", "--sort"),
        ("mirror", "x --cnfig-dir .", "--config-dir"),
        ("parity", "--stepss 2", "--steps"),
        ("predict", "x --out y --stat_ best", "--state"),
        ("replay", "x --tolerence 1", "--tolerance"),
        ("show", "x --hlp", "--help"),
    ],
)
def test_the_nearest_option_is_named(name, arguments, near, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["runner", name, *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    assert f"Did you mean '{near}'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, arguments, missing",
    [
        ("compare", "nowhere --by seed there", "there"),
        ("list", "nowhere --sort seed there", "nowhere"),
        ("mirror", "nowhere --config-dir . tracker=cvs", "tracker=cvs"),
        ("parity", "seed=0 --steps 2 optimizer=admm", "optimizer=admm"),
        ("evaluate", "nowhere --json data.batch_size=2", "nowhere"),
    ],
)
def test_folders_and_overrides_may_follow_an_option(
    name, arguments, missing, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    command = importlib.import_module(program.COMMANDS[name])
    try:
        said = f"{command.main(arguments.split())}"
    except SystemExit as ended:
        said = str(ended.code)
    said += capsys.readouterr().err
    assert missing in said and "unrecognized" not in said
