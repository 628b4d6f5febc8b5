import importlib.metadata
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from runner.config import conf

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def build(target: str, source: Path, out: Path) -> Path:
    """The archive that hatchling builds of `source`, without a network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive,) = out.iterdir()
    return archive


def wheel_names(source: Path, out: Path) -> set[str]:
    with zipfile.ZipFile(build("wheel", source, out)) as archive:
        return set(archive.namelist())


def files(folder: Path) -> set[str]:
    """Relative paths of the files that belong to the project."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> set[str]:
    return wheel_names(ROOT, tmp_path_factory.mktemp("wheel"))


def test_wheel_has_every_file_of_conf_and_src(wheel):
    expected = {f"runner/conf/{name}" for name in files(ROOT / "conf")}
    expected |= files(ROOT / "src")
    packaged = {name for name in wheel if ".dist-info/" not in name}
    assert packaged == expected


def test_wheel_of_the_sdist_is_the_same(wheel, tmp_path):
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("jax_experiment_runner-*")
    assert wheel_names(source, tmp_path / "wheel") == wheel


def test_version():
    installed = importlib.metadata.version("jax-experiment-runner")
    assert installed == PROJECT["project"]["version"]


def test_conf_dir(monkeypatch, tmp_path):
    assert conf.conf_dir() == ROOT / "conf"
    (tmp_path / "runner" / "conf").mkdir(parents=True)
    monkeypatch.setattr(
        conf, "__file__", str(tmp_path / "runner" / "config" / "conf.py")
    )
    assert conf.conf_dir() == tmp_path / "runner" / "conf"


def test_constraints_name_every_dependency_and_no_address():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if "==" not in pin or "/" in pin] == []
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"]
    wanted = wanted + extras["dev"] + extras["slurm"]
    wanted = wanted + extras["optuna"] + extras["text"]
    names = {want.split("=")[0].split(">")[0].split("[")[0] for want in wanted}
    assert {name.lower().replace("_", "-") for name in names} <= pinned
