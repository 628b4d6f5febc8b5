"""Which module may import which: read from the source, lazy and typing imports too."""

import ast
import functools
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCE.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """The modules of ours that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (below & MODULES.keys()) or {node.module or ""}
    return {name for name in found if name in MODULES}


GRAPH = {name: imports(path) for name, path in MODULES.items()}


@functools.cache
def floors() -> dict[str, int]:
    """The height of each part of the package, from what import-linter is told."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = config["tool"]["importlinter"]["contracts"]
    (layers,) = [c["layers"] for c in contracts if c["id"] == "floors"]
    return {
        part.strip(): height
        for height, layer in enumerate(reversed(layers))
        for part in layer.split(":")
    }


def height(module: str) -> int:
    package, _, rest = module.partition(".")
    if package == "hydra_plugins":
        return len(floors())
    # The package itself gives users what all floors have; nothing of ours imports it.
    return floors()[rest.split(".")[0]] if rest else len(floors())


def test_no_import_points_up():
    assert [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if height(other) > height(module)
    ] == []


def test_there_is_no_circle():
    def reached(start: str) -> set[str]:
        found: set[str] = set()
        left = [start]
        while left:
            new = GRAPH[left.pop()] - found
            found |= new
            left += new
        return found

    assert [module for module in GRAPH if module in reached(module)] == []


def test_every_module_has_a_floor():
    beside = {path.stem for path in (SOURCE / "runner").glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in (SOURCE / "runner").glob("*/__init__.py")}
    assert beside | packages == set(floors())
    assert len(beside) <= 7  # and __init__


def test_the_loop_loads_nothing_of_what_is_around_it():
    heavy = {"hydra", "omegaconf", "orbax", "wandb", "polars", "altair", "rich"}
    code = f"import sys, runner.core.train; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done
