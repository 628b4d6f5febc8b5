"""Every YAML in conf/ is composed and built."""

from importlib import resources

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from helpers.at_night import one_in
from helpers.text import POEM
from helpers.training import build_job, train_run
from helpers.user_targets import TOKENS
from runner.config import conf
from runner.config.conf import conf_dir
from runner.job.check import check

# Prepared from files that aren't there; that they name them is held by test_tfds.py.
ABSENT = {"mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100", "tfds"}
DIGITS = resources.files("runner.data") / "digits.csv.gz"
# What those of a user's own data need.
NEEDED = {
    "tfds": ["data.name=mnist"],
    "source": [
        "data.train={_target_: helpers.user_sources.Points}", "data.classes={label: 2}",
        "data.validation={_target_: helpers.user_sources.points}",
    ],
    "table": [f"data.path={DIGITS}", "data.header=false",
              "data.target=column_64", "data.inputs=[column_2,column_3]"],
    "text": [
        f"data.path={conf_dir() / 'config.yaml'}", "data.block_size=16",
        "model=transformer", "model.width=16", "model.heads=2", "model.layers=1",
    ],
}  # fmt: skip


def options(group):
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def presets():
    """The experiments, those in folders too."""
    folder = conf_dir() / "experiment"
    paths = [path.relative_to(folder) for path in folder.rglob("*.yaml")]
    return sorted(str(path.with_suffix("")) for path in paths)


def test_every_group_is_tested():
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    assert groups == {
        "callback", "cluster", "data", "debug", "distributed", "experiment",
        "framework",
        "mesh", "metric", "model", "optimizer", "precision", "probe",
        "schedule", "sweep", "task", "tracker", "wandb",
    }  # fmt: skip


# Models that are another one with other numbers: always checked, and built at night.
# models/test_convnet.py makes the first two.
ALIKE = ("2c2d", "3c3d", "gpt2", "nanogpt", "resnet20")


@pytest.mark.parametrize("whole", one_in(2, [False, True]))
@pytest.mark.parametrize(
    "group", ["cluster", "framework", "mesh", "model", "precision", "wandb"]
)
def test_every_choice_builds(group, whole, built, composed):
    needed = {
        "tensor": ["mesh.rules=[[kernel,[null,model]]]"],
        "3c3d": ["model.layers.0.padding=SAME"],  # digits are smaller than its images
        "quadratic": ["data=quadratic"],
        "resnet": ["model.depth=8", "model.width=4"],
        "resnet20": ["model.depth=8", "model.width=4"],
    }
    small = (*TOKENS, "model.width=48", "model.layers=1")
    needed |= dict.fromkeys(("transformer", "nanogpt", "gpt2"), small)
    for option in options(group):
        given = f"{group}={option}", "train.epochs=1", *needed.get(option, [])
        # core/test_choose.py has the forms of convolutions.
        native = "train.convolution=native"
        if group == "model" and option in ALIKE and not whole:
            check(composed(*given, native))
        else:
            built(*given, native)


@pytest.mark.parametrize("data", options("data"))
def test_every_data_set_is_composed_and_the_small_ones_built(data, composed):
    cfg = composed(f"data={data}", "train.epochs=1", *NEEDED.get(data, []))
    assert cfg.data._target_.startswith("runner.data.")
    if data not in ABSENT:
        assert build_job(cfg).run.settings.steps > 0


@pytest.mark.parametrize("debug", [d for d in options("debug") if d != "find_nan"])
def test_every_debug_preset_trains(debug, composed):
    cfg = composed(f"debug={debug}")
    rows = []
    train_run(build_job(cfg).run, rows.append)
    assert rows[-1]["step"] == cfg.train.steps


@pytest.mark.parametrize("experiment", presets())
@pytest.mark.parametrize("whole", one_in(2, [False, True]))
def test_every_experiment_builds_choices_of_its_sweep(
    experiment, whole, folders, tmp_path
):
    """At night each value that it sweeps over, else the first of each key together.

    tests/core/test_optimizers.py and test_schedules.py train all of their groups.
    """
    text = tmp_path / "poem.txt"
    text.write_text(POEM * 100)
    conf.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        chosen = [f"experiment={experiment}"]
        cfg = compose("config", chosen, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        sweep = OmegaConf.to_container(cfg.hydra.sweeper.params, resolve=True)
        assert sweep, "an experiment says what -m runs"
        parser = OverridesParser.create()
        swept = []
        for key, values in sweep.items():
            override = parser.parse_override(f"{key}={values}")
            assert override.is_sweep_override()
            swept.append([f"{key}={v}" for v in override.sweep_string_iterator()])
        jobs = [[value] for values in swept for value in values]
        if not whole:
            jobs = [[values[0] for values in swept]]
        for job in jobs:
            short = ["train.epochs=null", "train.steps=122", "mesh=single"]
            short.append("verify=false")  # tests/checks/test_verify.py does
            cfg = compose("config", [*chosen, *job, *short])
            if "data_dir" in cfg.data:
                cfg.data.data_dir = str(folders["data"])
            if cfg.data._target_ == "runner.data.text.dataset.text":
                cfg.data.path, cfg.model.layers = str(text), 1
                if OmegaConf.is_missing(cfg.data, "validation"):
                    cfg.data.validation = str(text)
            if cfg.data.get("name") not in ABSENT:
                build_job(cfg)
