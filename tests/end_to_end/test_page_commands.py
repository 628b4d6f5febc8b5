"""Each command of the README and of docs/ is run, shortened at most, or composed."""

import itertools
import os
import re
import shlex
from pathlib import Path

import pytest

from helpers.composing import compose_command
from helpers.forked import python
from helpers.pages import COMMANDS, PAGES, ROOT, commands, write_files
from runner.config.conf import conf_dir
from runner.record.files import read_metrics

SHORT = "train.epochs=1"
# How each command is shortened, or the test of its own that runs it.
SHORTENED = (
    "optimizer=adamw optimizer.weight_decay=0.01 schedule=cosine framework=linen",
    "-m optimizer=sgd,adam framework=jax,linen,nnx",
    "schedule=reduce_on_plateau",
    "schedule=reduce_on_plateau schedule@schedule.base=cosine schedule.patience=2",
    "-m optimizer=sgd,adam seed=0,1,2 train.epochs=3 hydra.sweep.dir=s1",
    "-m sweep=tuned optimizer=sgd,adam seed=0,1,2",
)
RATES = (
    "-m optimizer=sgd,adam"
    " optimizer.learning_rate=0.0001,0.0003,0.001,0.003,0.01,0.03,0.1,0.3,1.0"
    " seed=0,1,2 schedule=cosine train.on_nan=continue hydra.sweep.dir=rates"
)
RUN_BY = dict.fromkeys(SHORTENED, SHORT) | {
    "mesh=fsdp print=sharding": "",
    "train.epochs=200 train.stop.metric=validation/accuracy"
    " train.stop.value=0.98": "test_a_run_ends_at_its_target",
    "cluster=slurm cluster.partition=gpu cluster.gpus=1 cluster.time=2:00:00"
    " cluster.dry_run=true": "",
    "hydra.run.dir=my_run train.epochs=2000 checkpoint.every_steps=1000": (
        "test_a_run_is_resumed"
    ),
    "checkpoint.resume=my_run train.epochs=4000": "test_a_run_is_resumed",
    "checkpoint.resume=my_run/checkpoints/44000 train.steps=50000": (
        "test_a_run_is_resumed"
    ),
    "-m experiment=adam_vs_sgd": "test_frameworks_are_compared",
    "-m runner.compare multirun/<date>/<time> --by framework": (
        "test_frameworks_are_compared"
    ),
    RATES: "test_the_readmes_sweep_is_compared",
    "-m runner.compare rates --by optimizer": "test_the_readmes_sweep_is_compared",
    "-m runner.parity model=cnn optimizer=adamw schedule=cosine": "test_parity",
    "optimizer=adam framework._target_=my_lab.quiet.pipeline": (
        "test_the_quiet_optimizer_is_refused"
    ),
    "--config-dir conf model=residual optimizer=sign_momentum schedule=triangle"
    " data=blobs +metric@metrics.margin=margin objective=validation/margin": (
        "test_own_parts_train"
    ),
    "-m sweep=optuna optimizer=adam hydra.sweeper.n_trials=64": (
        "contracts/test_sweep_presets.py::"
        "test_optuna_searches_the_space_of_the_optimizer"
    ),
    "scripts/fashion_mnist.py --out fashion": (
        "data/tfds/test_prepare.py::test_the_real_fashion_mnist_by_tfds_own_builder"
    ),
    "data=fashion_mnist data.manual_dir=fashion data.download=false model=cnn": (
        "data/tfds/test_prepare.py::test_the_real_fashion_mnist_by_tfds_own_builder"
    ),
    "cluster=slurm cluster.partition=gpu cluster.gpus=1 cluster.time=2:00:00": (
        "cluster/test_slurm.py::test_the_pages_run"
    ),
    "-m cluster=slurm cluster.partition=gpu cluster.gpus=1 sweep=tuned"
    " optimizer=sgd,adam seed=0,1,2": "cluster/test_slurm.py::test_the_pages_sweep",
}


def arguments(command: str) -> str:
    """What comes after `python -m runner`, or after `python` of another program."""
    ours = re.search(r"python -m runner(?: (.*))?$", command)
    return (ours[1] or "") if ours else command.partition("python ")[2]


DIRECT = [c for c in RUN_BY if not RUN_BY[c].startswith(("test_", "c", "data/"))]
# What is composed by day: the README has others of its kind, or tests/job, cluster,
# compare and parity run what it is for.
OF_OTHERS = (
    "", "test_a_run_ends_at_its_target", "test_a_run_is_resumed",
    "test_frameworks_are_compared", "test_parity",
)  # fmt: skip
AT_NIGHT = (*SHORTENED[1:], *(c for c in RUN_BY if RUN_BY[c] in OF_OTHERS))


# Pages all of whose commands other tests run or compose.
RUN_ELSEWHERE = {
    "own_model": "test_pages.py",
    "own_source": "test_own_data.py",
    "own_table": "test_own_data.py",
    "own_text": "test_own_data.py",
    "tasks": "test_tasks.py",
}
# Commands of others, which .ci/run runs or people do.
OTHERS = ("python3 -m venv", "pip install", "wandb sweep", "eval ")


def to_compose():
    """The other commands, each once, unless it needs the files of its page."""
    seen = set()
    for page in PAGES:
        for number, line in enumerate(commands(page)):
            given = arguments(line)
            by_day = given in RUN_BY and given not in AT_NIGHT
            run = page in RUN_ELSEWHERE or by_day
            if run or line in seen or line.startswith(OTHERS):
                continue
            if "--config-dir" not in line:
                seen.add(line)
            yield pytest.param(page, line, id=f"{page}-{number}")


@pytest.mark.parametrize(("page", "command"), [*to_compose()])
def test_a_command_is_composed(page, command, tmp_path, monkeypatch, own_modules):
    write_files(page, tmp_path)
    for name in ("docs", "src", "examples"):  # what a checkout has
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    own_modules(tmp_path)
    compose_command(command, monkeypatch)


def test_each_command_that_is_run_is_on_a_page():
    """All of the README are run."""
    assert RUN_BY.keys() <= {arguments(command) for command in COMMANDS}
    told = [line for line in commands("README") if ".venv" not in line]
    assert told and {arguments(line) for line in told} <= RUN_BY.keys()
    for page, file in RUN_ELSEWHERE.items():
        assert f'"{page}"' in Path(__file__).with_name(file).read_text()
    for test in set(RUN_BY.values()) - {"", SHORT}:
        file, _, name = test.rpartition("::")
        path = Path(__file__).parents[1] / file if file else Path(__file__)
        assert f"def {name}(" in path.read_text()


def runner(folder: Path, *arguments: str, **variables: str):
    program = ["-m", "runner"] if not arguments[:1] == ("-m",) else []
    if arguments[:1] == ("-m",) and not arguments[1].startswith("runner."):
        program = ["-m", "runner"]
    quick = {"WANDB_MODE": "disabled", "JAX_NUM_CPU_DEVICES": "1"}
    env = os.environ | quick | variables
    return python(*program, *arguments, cwd=folder, env=env)


@pytest.fixture(scope="module")
def own_parts(tmp_path_factory) -> Path:
    """A folder with the files that these pages show, where their comments say."""
    folder = tmp_path_factory.mktemp("own_parts")
    for page in ("own_parts", "verify"):
        write_files(page, folder)
    return folder


@pytest.fixture
def ready(folders) -> dict[str, str]:
    """Where data and compiled programs of these tests are, as variables."""
    cache = str(folders["xla"].parent / "cache")
    return {"TFDS_DATA_DIR": str(folders["data"]), "XDG_CACHE_HOME": cache}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(c, marks=[pytest.mark.nightly] if c in AT_NIGHT else [])
        for c in DIRECT
    ],
)
def test_a_command(command, tmp_path, ready):
    (line,) = {line for line in COMMANDS if arguments(line) == command}
    virtual = re.match(r"(JAX_NUM_CPU_DEVICES)=(\d+) ", line)
    variables = {virtual[1]: virtual[2]} if virtual else {}
    given = shlex.split(f"{command} {RUN_BY[command]}")
    result = runner(tmp_path, *given, **ready, **variables)
    assert result.returncode == 0, result.stderr
    if "dry_run" in command:
        assert "#SBATCH --partition=gpu" in result.stdout
    elif "print" in command:
        assert "dense_0/kernel" in result.stdout
    else:
        names = ("s1/*", "multirun/*/*/*", "outputs/*/*")
        found = [f for name in names for f in tmp_path.glob(f"{name}/metrics.jsonl")]
        assert found and all(read_metrics(f)[-1]["step"] == 22 for f in found)


@pytest.mark.nightly
def test_a_run_ends_at_its_target(tmp_path, ready):
    (command,) = (c for c in RUN_BY if "train.stop" in c)
    result = runner(tmp_path, *shlex.split(command), "hydra.run.dir=run", **ready)
    assert result.returncode == 0, result.stderr
    assert "validation/accuracy reached 0.98" in result.stderr
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["validation/accuracy"] >= 0.98 and last["step"] < 200 * 22


@pytest.mark.nightly
def test_a_run_is_resumed(tmp_path, ready):
    first, longer, elsewhere = (
        shlex.split(command) for command in RUN_BY if "my_run" in command
    )
    # The page's run has 44,000 steps.
    saved = ("train.steps=1000", first[2], "train.epochs=null")
    result = runner(tmp_path, first[0], *saved, **ready)
    assert result.returncode == 0, result.stderr
    result = runner(tmp_path, longer[0], "train.epochs=46", **ready)
    assert result.returncode == 0, result.stderr
    earlier = elsewhere[0].replace("44000", "1000")
    result = runner(tmp_path, earlier, "train.steps=1010", **ready)
    assert result.returncode == 0, result.stderr
    ends = [
        read_metrics(file)[-1]["step"]
        for file in sorted(tmp_path.glob("outputs/*/*/metrics.jsonl"))
    ]
    assert ends == [1012, 1010]


@pytest.mark.nightly
def test_frameworks_are_compared(tmp_path, ready):
    result = runner(tmp_path, "-m", "experiment=adam_vs_sgd", SHORT, **ready)
    assert result.returncode == 0, result.stderr
    (sweep,) = tmp_path.glob("multirun/*/*")
    compared = runner(tmp_path, "-m", "runner.compare", str(sweep), "--by", "framework")
    assert compared.returncode == 0, compared.stderr
    assert "jax, linen and nnx agree" in compared.stdout
    assert (tmp_path / "compare" / "report.html").exists()


@pytest.mark.parametrize(
    ("length", "verdict"),
    [
        (SHORT, " on validation/loss"),
        # Another machine rounds differently.
        pytest.param(
            "", "adam is better than sgd on validation/loss by 0.0",
            marks=pytest.mark.nightly,
        ),
    ],
)  # fmt: skip
def test_the_readmes_sweep_is_compared(tmp_path, ready, length, verdict):
    swept, compared = (shlex.split(c) for c in RUN_BY if "rates" in c)
    for command in (swept + length.split(), compared):
        result = runner(tmp_path, *command, **ready)
        assert result.returncode == 0, result.stderr
    assert verdict in result.stdout and verdict in PAGES["README"]
    assert (tmp_path / "compare" / "sensitivity.png").exists()


@pytest.mark.nightly
def test_parity(tmp_path, ready):
    given = next(command for command in RUN_BY if "runner.parity" in command)
    result = runner(tmp_path, *shlex.split(given), "--steps", "2", **ready)
    assert result.returncode == 0, result.stderr
    assert "equal bit for bit in each of 2 steps" in result.stdout


def test_own_parts_train(own_parts, ready):
    (command,) = [command for command in RUN_BY if "--config-dir" in command]
    data = {"TFDS_DATA_DIR": str(own_parts / "data")}
    result = runner(own_parts, *shlex.split(command), **ready | data)
    assert result.returncode == 0, result.stderr
    (metrics,) = own_parts.glob("outputs/*/*/metrics.jsonl")
    rows = read_metrics(metrics)
    assert rows[-1]["validation/accuracy"] > 0.9
    for row in rows:  # what the schedule and the pages say of a row's learning rate
        rate = 0.001 * (1 - abs(2 * (row["step"] - 1) / rows[-1]["step"] - 1))
        assert row["train/learning_rate"] == pytest.approx(rate, rel=1e-4)


def test_the_quiet_optimizer_is_refused(own_parts, ready):
    (command,) = [command for command in RUN_BY if "my_lab.quiet" in command]
    result = runner(own_parts, *shlex.split(command), **ready)
    assert result.returncode == 1
    told = "The observed updates match\noptax.sgd(0.001), not optax.adam"
    assert told in PAGES["verify"]
    assert "match optax.sgd(0.001), not optax.adam(0.001)" in result.stderr
    assert "Traceback" not in result.stderr


def test_table_lists_every_choice():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGES["choosing"], re.MULTILINE)
    named = {group: set(re.findall(r"`(\w+)`", choices)) for group, choices in rows}
    groups = itertools.groupby(sorted(conf_dir().glob("*/*.yaml")), lambda p: p.parent)
    assert named == {
        folder.name: {path.stem for path in paths} for folder, paths in groups
    }
