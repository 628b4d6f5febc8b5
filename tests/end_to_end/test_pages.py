"""The pages of docs/ about models and training: their code and their commands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from helpers.training import build_job
from runner.config import conf
from runner.parity.__main__ import main as parity

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[tuple[str, str]]:
    text = (DOCS / f"{page}.md").read_text()
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    text = "".join(code for kind, code in blocks(page) if kind == "sh")
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines()]


def write_files(page: str, folder: Path) -> None:
    for kind, text in blocks(page):
        name = re.match(r"# (\S+/\S+\.(?:py|yaml))\n", text)
        if kind in ("python", "yaml") and name:
            (folder / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / name[1]).write_text(text)


def test_an_own_model(tmp_path, own_modules, folders):
    write_files("own_model", tmp_path)
    own_modules(tmp_path)
    conf.register()
    search = conf.search_path(tmp_path / "conf")
    with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        for _, _, module, *arguments in commands("own_model"):
            assert arguments[:2] == ["--config-dir", "conf"]
            if module == "runner":
                quick = ["mesh=single", "train.epochs=1"]
                cfg = compose("config", [*arguments[2:], *quick, *search])
                with open_dict(cfg):
                    cfg.compilation_cache = str(folders["xla"])
                build_job(cfg)  # and verify
    with pytest.raises(SystemExit) as ended:
        parity([*arguments[2:], "--config-dir", str(tmp_path / "conf"), "--steps", "3"])
    assert ended.value.code == 0


@pytest.mark.nightly
@pytest.mark.parametrize("page", ["own_model", "groups", "warm_start", "terminal"])
def test_commands_run_as_they_stand(page, tmp_path):
    write_files(page, tmp_path)
    where = os.environ | {"WANDB_MODE": "disabled", "JAX_NUM_CPU_DEVICES": "1"}
    for _, *command in commands(page):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=where, capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
