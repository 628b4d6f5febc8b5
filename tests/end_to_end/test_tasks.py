"""docs/tasks.md: the tasks of a first week, each of which does what it says.

Always in this process, shortened; at night as they stand.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import runner
import runner.parity.compare  # whose own Session isn't that of the tests
from helpers.composing import compose_command
from helpers.documented import SHORT, arguments, in_process, is_runner
from helpers.pages import PAGES, blocks_of, lines, write_file
from helpers.training import SESSION
from runner import library

PAGE = PAGES["tasks"]
MOST_LINES = 15
# {heading: its code blocks}
TASKS = {
    heading: blocks_of(text)
    for heading, text in re.findall(
        r"^### ([^\n]*)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
}
FIRST = [*TASKS][:2]  # they leave what others read
# What is composed always and run at night, and why.
AT_NIGHT = {
    "Do the numbers of a published table come out again?": "half a minute",
    "Do two frameworks give the same result?": "contracts/ and parity/ ask that",
    "How do I get a sweep as a table?": "see test_library.py",
    "How do I get the average of five seeds, with a figure for a paper?": (
        "see test_examples.py"
    ),
    "How big is the model?": "prints, and trains nothing: see job/test_model_table.py",
    "How do I find several settings at once, with Optuna?": "populations of trials",
    "How do I run a sweep on a Slurm cluster?": "ends its process",
    "How do I run on a Slurm cluster?": "ends its process; see cluster/test_slurm.py",
    "How do I split a model that doesn't fit on one device?": "needs JAX to start anew",
    "How do I train a language model on my own text?": "seconds; see data/text",
    "How do I train my own model?": "see test_own_training in test_examples.py",
    "How do I train on a CSV file?": "see test_own_data.py",
    "How do I train on my own arrays or files?": "see test_own_data.py",
    "How do I train with my own loss?": "see test_own_training in test_examples.py",
    "How do I train with my own optimizer?": (
        "see test_own_training in test_examples.py"
    ),
    "If they don't, at which step do they part?": "see parity/test_parity.py",
    "What would run, without running it?": "Hydra's own flags need a process",
    "Where does the time go?": "traces take seconds",
    "Which learning rate should I use?": "a sweep, and a list of its runs, as others",
    "Which of these optimizers is better?": "30 jobs",
    "Which schedule is better?": "as is that of optimizers, at five seeds",
} | dict.fromkeys(
    (
        "Are the gradients of each layer healthy?",
        "Can my model learn anything at all?",
        "How do I accumulate gradients?",
        "How do I change the batch size?",
        "How do I change the optimizer and its arguments?",
        "How do I clip gradients?",
        "How do I evaluate a moving average of the parameters?",
        "How do I freeze a layer?",
        "How do I get top-5 accuracy?",
        "How do I keep my usual settings in a file?",
        "How do I leave biases out of weight decay?",
        "How do I reduce the learning rate on a plateau, with nnx?",
        "How do I smooth labels?",
        "How do I train in bfloat16?",
        "How do I train with two learning rates?",
        "How do I vary the order of the examples alone?",
        "How do I warm the learning rate up and let it fall?",
        "Some classes are rare: how do I weigh them?",
    ),
    "sets a key that has tests of its own, and needs a program of its own",
)
# What ends with an error, and its exit status at night.
FAILS = "Where does the NaN come from?"
EXPECTED = {FAILS: (1,), "My run was killed: how do I resume it?": (0, 124)}
# What isn't run at all, and why.
NOT_RUN = {
    "wandb sync runs/offline/wandb/offline-run-*": "needs an account",
    "tensorboard --logdir runs/board/tensorboard": "serves until it is stopped",
}


def test_each_task_has_a_name_of_its_own_and_is_short():
    headings = re.findall(r"^### (.*)$", PAGE, re.MULTILINE)
    assert len(set(headings)) == len(headings) == len(TASKS) >= 40
    assert not set(AT_NIGHT) - set(TASKS)
    for heading, found in TASKS.items():
        assert heading.endswith("?"), heading
        code = [line for _, text in found for line in text.splitlines() if line.strip()]
        assert 1 <= len(code) <= MOST_LINES, f"{heading} has {len(code)} lines"
        kinds = {kind for kind, _ in found}
        assert kinds & {"sh", "python"} and kinds <= {"sh", "python", "yaml"}, heading
    shell = {
        line for found in TASKS.values() for _, text in found for line in lines(text)
    }
    assert not set(NOT_RUN) - shell


def shortened(overrides: list[str]) -> list[str]:
    """A task's overrides, with the length of a test: longer, if more than 20 epochs."""
    lengths = ("train.epochs=", "train.steps=", "seed=0,1,2")
    kept = [o for o in overrides if not o.startswith(lengths)]
    if any(o.startswith("seed=0,1,2") for o in overrides):
        kept.append("seed=0,1")
    epochs = [int(o[13:]) for o in overrides if o.startswith("train.epochs=")]
    quick = [*SHORT, f"train.steps={6 if max([0, *epochs]) > 20 else 4}"]
    if not any("mine.model" in o for o in overrides):  # which nnx alone has
        quick.append("framework=jax")
    given = {o.partition("=")[0] for o in kept}
    return [*kept, *(q for q in quick if q.partition("=")[0] not in given)]


@pytest.fixture(scope="module")
def week(tmp_path_factory, folders):
    """A folder in which the first tasks were done, and what runs the others there."""
    folder = tmp_path_factory.mktemp("week")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("job.run", "job.session", "replay.again"):
            patch.setattr(f"runner.{module}.Session", lambda *_, **__: SESSION)
        patch.setattr(runner, "run", short(library.run), raising=False)
        patch.setattr(runner, "run_sweep", short(library.run_sweep), raising=False)
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("XDG_CACHE_HOME", str(folders["xla"].parent / "cache"))
        patch.setenv("TFDS_DATA_DIR", str(folders["data"]))
        for heading in FIRST:
            do(heading)
        yield folder


def short(function):
    return lambda overrides, **options: function(shortened(overrides), **options)


def do(heading: str) -> None:
    """Do a task in this process and this folder, shortened."""
    for kind, code in TASKS[heading]:
        if write_file(kind, code, Path.cwd()):
            continue
        if kind == "python":
            exec(compile(code, heading, "exec"), {})
            continue
        for line in lines(code):
            if is_runner(line):
                in_process(arguments(line), shortened)
            elif line not in NOT_RUN:
                subprocess.run(line, shell=True, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("heading", [t for t in TASKS if t not in (*FIRST, *AT_NIGHT)])
def test_a_task(heading, week):
    if heading != FAILS:
        return do(heading)
    with pytest.raises(FloatingPointError, match="nan"):
        do(heading)


@pytest.mark.parametrize("heading", AT_NIGHT)
def test_a_task_of_the_night_is_composed(heading, tmp_path, monkeypatch, own_modules):
    monkeypatch.chdir(tmp_path)
    own_modules(tmp_path)
    for kind, code in TASKS[heading]:
        if write_file(kind, code, tmp_path):
            continue
        for line in lines(code) if kind == "sh" else ():
            assert not is_runner(line) or compose_command(line, monkeypatch) >= 0


@pytest.mark.nightly
def test_the_tasks_as_they_stand(tmp_path):
    where = os.environ | {"WANDB_MODE": "offline", "JAX_NUM_CPU_DEVICES": "1"}
    where["PATH"] = f"{Path(sys.executable).parent}:{where['PATH']}"
    failed = {}
    for heading, found in TASKS.items():
        for kind, code in found:
            if write_file(kind, code, tmp_path):
                continue
            for line in [code] if kind == "python" else lines(code):
                if line in NOT_RUN:
                    continue
                command = [sys.executable, "-c", line] if kind == "python" else line
                done = subprocess.run(
                    command, shell=kind == "sh", cwd=tmp_path, env=where,
                    capture_output=True, text=True,
                )  # fmt: skip
                if done.returncode not in EXPECTED.get(heading, (0,)):
                    failed[line] = done.stdout + done.stderr
    assert not failed, "\n\n".join(f"{line}:\n{said}" for line, said in failed.items())
