import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from runner.config.conf import conf_dir
from runner.record.files import read_metrics

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition("python -m runner")[2].strip()
    for kind, text in BLOCKS
    for line in text.splitlines()
    if kind == "sh" and "python -m runner " in f"{line} " and ".venv" not in line
]
(OWN_PARTS,) = [command for command in COMMANDS if "--config-dir" in command]


def runner(folder: Path, *arguments: str, **variables: str):
    return subprocess.run(
        [sys.executable, "-m", "runner", *arguments],
        cwd=folder,
        env=os.environ | {"WANDB_MODE": "disabled"} | variables,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def own_parts(tmp_path_factory) -> Path:
    """A folder with the files that the README shows, where its comments say."""
    folder = tmp_path_factory.mktemp("own_parts")
    for kind, text in BLOCKS:
        name = re.match(r"# (\S+/\S+\.(?:py|yaml))\n", text)
        if kind in ("python", "yaml") and name:
            (folder / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / name[1]).write_text(text)
    return folder


def test_own_parts_train(own_parts):
    cache = f"compilation_cache={own_parts}/xla"
    result = runner(
        own_parts,
        *shlex.split(OWN_PARTS),
        cache,
        JAX_NUM_CPU_DEVICES="1",
        TFDS_DATA_DIR=str(own_parts / "data"),
    )
    assert result.returncode == 0, result.stderr
    (metrics,) = own_parts.glob("outputs/*/*/metrics.jsonl")
    rows = read_metrics(metrics)
    assert rows[-1]["eval/accuracy"] > 0.9
    for row in rows:  # what the schedule and the README say of a row's learning rate
        rate = 0.001 * (1 - abs(2 * (row["step"] - 1) / rows[-1]["step"] - 1))
        assert row["train/learning_rate"] == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compose(command, own_parts):
    # A sweep's lists can't be printed as one configuration: their first job is.
    given = [word.partition(",")[0] for word in shlex.split(command) if word != "-m"]
    result = runner(own_parts, *given, "--cfg", "job")
    assert result.returncode == 0, result.stderr


def test_the_quiet_optimizer_is_refused(own_parts):
    (command,) = [command for command in COMMANDS if "my_lab.quiet" in command]
    result = runner(own_parts, *shlex.split(command), TFDS_DATA_DIR=f"{own_parts}/data")
    assert result.returncode == 1
    assert "The observed updates match\noptax.sgd(0.001), not optax.adam" in README
    assert "match optax.sgd(0.001), not optax.adam(0.001)" in result.stderr
    assert "Traceback" not in result.stderr


def test_table_lists_every_choice():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE)
    named = {group: set(re.findall(r"`(\w+)`", choices)) for group, choices in rows}
    groups = itertools.groupby(sorted(conf_dir().glob("*/*.yaml")), lambda p: p.parent)
    assert named == {
        folder.name: {path.stem for path in paths} for folder, paths in groups
    }
