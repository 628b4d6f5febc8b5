"""A shell completes groups, options, keys and commands."""

import subprocess
import sys

import pytest
from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra.core.hydra_config import HydraConfig

from runner.cli import main
from runner.config.completion import complete_commands

STUB = """#!/bin/sh
echo "$(basename $0) $* [$COMP_LINE]" >&3
echo optimizer=adam optimizer=adamw schedule=
"""
# What is typed, what it may become, and what is asked for that.
TYPED = [
    ("runner optimizer=ad", "optimizer=adam optimizer=adamw",
     "runner -sc query=bash [runner optimizer=ad]"),
    ("python -m runner seed=1 sch", "schedule=",
     "python -m runner -sc query=bash [runner seed=1 sch]"),
    ("python3 -m runner ", "compare show optimizer=adam optimizer=adamw schedule=",
     "python3 -m runner -sc query=bash [runner ]"),
    ("./python3.12/runner sch", "schedule=", "runner -sc query=bash [runner sch]"),
    ("runner comp", "compare", "runner -sc query=bash [runner comp]"),
    ("runner compare outp", "", ""),  # a file, which the shell completes itself
    ("python train.py opti", "", ""),
]  # fmt: skip


@pytest.fixture
def script(monkeypatch, capsys):
    for name in ("install", "uninstall"):
        monkeypatch.setattr(BashCompletion, name, getattr(BashCompletion, name))
    complete_commands(["compare", "show"])
    BashCompletion.install(None)
    return capsys.readouterr().out


def test_bash_completes_both_forms_of_a_command(script, tmp_path):
    (tmp_path / "python3.12").mkdir()
    for name in ("runner", "python", "python3", "python3.12/runner"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    lines = [script]
    for typed, *_ in TYPED:
        lines += [
            f"COMP_LINE='{typed}' COMP_POINT={len(typed)}",
            "exec 3> asked; : > asked; _runner_completion; exec 3>&-",
            'echo "${COMPREPLY[*]}|$(cat asked)"',
        ]
    shell = subprocess.run(
        ["bash", "--norc"], input="\n".join(lines), cwd=tmp_path, text=True,
        capture_output=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout=60,
    )  # fmt: skip
    assert shell.stderr == ""
    assert shell.stdout.splitlines() == [
        f"{reply}|{asked}" for _, reply, asked in TYPED
    ]


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("runner optimizer=adamw", ["optimizer=adamw"]),
        ("runner optimizer=adam schedule=warmup", ["schedule=warmup_cosine"]),
        ("runner experiment=nano", ["experiment=nanolm"]),
        ("runner optimizer=sgd optimizer.mo", ["optimizer.momentum="]),
        ("runner train.ep", ["train.epochs="]),
    ],
)
def test_what_there_is_is_known(monkeypatch, capsys, line, choices):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setattr(sys, "argv", ["runner", "-sc", "query=bash"])
    HydraConfig.instance().cfg = None
    main()
    assert set(choices) <= set(capsys.readouterr().out.split())
