"""The README and the pages of docs/: blocks are code, and links lead somewhere."""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from helpers.pages import PAGES, ROOT, blocks, commands, write_files
from helpers.training import build_job
from runner.config import conf
from runner.parity.__main__ import main as parity
from runner.settings import GROUPS, NAMED, SECTIONS, SETTINGS

# Their commands need nothing that isn't on the page.
RUN_AT_NIGHT = (
    "coming_from_flax", "coming_from_lightning", "coming_from_wandb_sweeps", "evaluate",
    "groups", "hooks",
    "index", "own_framework", "own_metric", "own_model", "own_optimizer", "own_task",
    "own_tracker", "own_transform", "terminal", "warm_start",
)  # fmt: skip
SCRIPT = "scripts/configuration_page.py"
OPEN = (*GROUPS, *NAMED, "tracker")


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in PAGES[p]])
def test_python_is_code_whose_imports_are_there(page, tmp_path, own_modules):
    write_files(page, tmp_path)
    own_modules(tmp_path)
    for kind, text in blocks(page):
        if kind != "python":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    assert hasattr(module, alias.name) or importlib.import_module(name)
    for path in tmp_path.rglob("*.py"):
        name = ".".join(path.relative_to(tmp_path).with_suffix("").parts)
        importlib.import_module(name)


@pytest.mark.parametrize("page", PAGES)
def test_data_in_blocks_is_read(page):
    for kind, text in blocks(page):
        if kind == "yaml":
            assert yaml.safe_load(text)
        elif kind == "json":
            assert [json.loads(line) for line in text.splitlines()]
        assert kind in ("sh", "python", "yaml", "json", "text", "csv", "toml"), kind


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", t).strip().lower().replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = ROOT if page == "README" else (ROOT / "docs" / page).parent
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", PAGES[page], flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        path = (folder / file).resolve() if file else None
        assert path is None or path.exists(), target
        if anchor:
            text = path.read_text() if path else PAGES[page]
            assert anchor in anchors(text), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 6 * 1024


def test_the_page_of_all_keys_is_current():
    spec = importlib.util.spec_from_file_location("page", ROOT / SCRIPT)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    text = made.page()
    assert text == PAGES["configuration"], f"renew it: python {SCRIPT}"
    told = set(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE))
    groups = {key for key in SETTINGS if key.partition(".")[0] in OPEN}
    assert SETTINGS.keys() - groups - {*SECTIONS} <= told
    for key, meaning in re.findall(r"^\| `(.*?)` \| `.*?` \| (.*?) \|", text, re.M):
        assert meaning and meaning[0] != "*", f"conf/ doesn't say what {key} means"


def test_each_page_is_in_the_table_of_contents():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = re.findall(r"[\w/]+\.md", str(site["nav"]))
    assert sorted(listed) == sorted(f"{page}.md" for page in PAGES if page != "README")


def test_an_own_model(tmp_path, own_modules, folders):
    write_files("own_model", tmp_path)
    own_modules(tmp_path)
    conf.register()
    search = conf.search_path(tmp_path / "conf")
    with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        quick = ["mesh=single", "train.epochs=1"]
        for _, _, module, *arguments in map(shlex.split, commands("own_model")):
            assert arguments[:2] == ["--config-dir", "conf"]
            if module == "runner":
                cfg = compose("config", [*arguments[2:], *quick, *search])
                with open_dict(cfg):
                    cfg.compilation_cache = str(folders["xla"])
                build_job(cfg)
                quick.append("verify=false")  # those after the first


@pytest.mark.nightly  # tests/parity compares the forms of a user's own model
def test_the_forms_of_an_own_model_agree(tmp_path, own_modules):
    write_files("own_model", tmp_path)
    own_modules(tmp_path)
    with pytest.raises(SystemExit) as ended:
        parity(["model=shortcut", "--config-dir", str(tmp_path / "conf"), "--steps=3"])
    assert ended.value.code == 0


def test_own_hooks(ran, tmp_path, own_modules):
    write_files("hooks", tmp_path)
    own_modules(tmp_path)
    small = "train.steps=4", "train.eval_every_steps=4"
    kinds = {"probe": "largest", "callback": "mistakes"}
    files = {k: tmp_path / f"conf/{k}/{name}.yaml" for k, name in kinds.items()}
    used = commands("hooks")
    given = []
    for kind, name in kinds.items():
        assert any(use.endswith(f"+{kind}@{kind}s.{name}={name}") for use in used)
        for key, value in yaml.safe_load(files[kind].read_text()).items():
            given.append(f"+{kind}s.{name}.{key}={value}")
    rows = ran(tmp_path / "run", *small, *given)
    assert {"probe/largest/kernel", "probe/largest/bias"} < set(rows[-1])
    said = (tmp_path / "run/files/mistakes/4.txt").read_text()
    assert said.startswith("after step 4\n") and ", not " in said


@pytest.mark.nightly
def test_the_page_on_python_is_executed(tmp_path):
    ((_, text),) = (block for block in blocks("python") if block[0] == "python")
    (tmp_path / "example.py").write_text(text)
    where = os.environ | {"WANDB_MODE": "disabled", "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path, env=where, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("validation/loss\n")


@pytest.mark.nightly
@pytest.mark.parametrize("page", RUN_AT_NIGHT)
def test_commands_run_as_they_stand(page, tmp_path):
    write_files(page, tmp_path)
    where = os.environ | {"WANDB_MODE": "disabled", "JAX_NUM_CPU_DEVICES": "1"}
    where["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), where["PATH"]])
    for command in commands(page):
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=where, capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
