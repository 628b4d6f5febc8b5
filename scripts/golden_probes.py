"""Write the probes of every shipped optimizer with the optax that is installed.

    pip install --target clean optax==0.2.8 --no-deps
    PYTHONPATH=clean python scripts/golden_probes.py

`runner.checks.golden` compares with them what runs, so the installation must be a clean
one. Probes of other versions in the file are kept. An optimizer whose updates rounding
decides has none.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import yaml
from omegaconf import OmegaConf

import runner.checks
from runner.checks.golden import Golden, is_golden
from runner.checks.reference import Watched
from runner.checks.side_by_side import Toy
from runner.checks.toy import on_toy, toy_model
from runner.checks.trajectory import Trajectories
from runner.checks.verify import Numbers, textbook_probe
from runner.config.conf import conf_dir, register
from runner.config.instantiate import targets
from runner.config.optimizer_groups import groups
from runner.core.optimizer_spec import OptimizerSpec
from runner.core.optimizers import optimizer
from runner.frameworks.jax import pipeline
from runner.tasks.task import Task

DIGITS = 9
# What rounding decides, each kind of processor decides in its own way: galore gives
# singular vectors of no gradient at all the same steps as all others.
OLDER = {"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2", "OPENBLAS_CORETYPE": "Nehalem"}


def probe(section: dict) -> list[float]:
    """What `runner.checks.golden` compares, of an optimizer with these arguments."""
    made = targets(OmegaConf.create({"optimizer": section}), "optimizer")
    rate = section["learning_rate"]
    wanted = OptimizerSpec(made["optimizer"], lambda step: rate, 1, None, False)
    wanted = on_toy(wanted._replace(groups=groups(section, made)))
    family = optimizer(wanted)
    task = Task(lambda batch: batch["x"], (2,), lambda outputs, _: (outputs[:, 0], 1.0))
    names = [group.name for group in wanted.groups]
    model = Watched(toy_model((2,), "float32", names))
    toy = Toy(
        pipeline(model, task, family), model, task, family, wanted, "default", None
    )
    numbers = Numbers(np.full(1, rate), family.hyperparameters, section, wanted)
    found = textbook_probe(Trajectories(toy), numbers)
    return [float(f"{value:.{DIGITS}g}") for value in found]


def probes() -> dict[str, tuple[dict, list[float]]]:
    """By the name of the optimizer: its arguments and its probe."""
    sections = {
        file.stem: yaml.safe_load(file.read_text())
        for file in sorted((conf_dir() / "optimizer").glob("*.yaml"))
    }
    return {name: (section, probe(section)) for name, section in sections.items()}


def on_an_older_processor() -> dict[str, tuple[dict, list[float]]]:
    command = [sys.executable, __file__, "--print"]
    return json.loads(subprocess.check_output(command, env=os.environ | OLDER))


def main() -> None:
    register()
    found = probes()
    if "--print" in sys.argv:
        return print(json.dumps(found))
    path = Path(runner.checks.__file__).with_name("golden_probes.json")
    every = json.loads(path.read_text()) if path.exists() else {}
    every[version("optax")] = {}
    for name, (_, older) in on_an_older_processor().items():
        section, here = found[name]
        kept = here if is_golden(Golden(0, {}, here), older) else None
        every[version("optax")][name] = section, kept
        print(name, "" if kept else "has none: rounding decides it")
    lines = [
        f'"{name}": ' + "{\n" + ",\n".join(
            f'"{key}": {json.dumps(value)}' for key, value in found.items()
        ) + "\n}"
        for name, found in sorted(every.items())
    ]  # fmt: skip
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
