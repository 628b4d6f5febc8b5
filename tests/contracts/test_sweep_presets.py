"""The YAML files of conf/sweep and conf/optimizer/search."""

import importlib.util
import json

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf

from helpers import command_line
from helpers.shipped import KINDS
from runner.config import conf
from runner.config.conf import conf_dir

OPTIMIZERS = {path.stem for path in (conf_dir() / "optimizer").glob("*.yaml")}
SEARCHES = {
    path.stem: path for path in (conf_dir() / "optimizer/search").glob("*.yaml")
}

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None,
    reason="the extra `optuna` isn't installed",
)


def best_rates() -> dict[str, float]:
    """By optimizer, what conf/experiment/optimizers.yaml found on the default data."""
    preset = OmegaConf.load(conf_dir() / "experiment/optimizers.yaml")
    raw = OmegaConf.to_container(preset, resolve=False)
    table = raw["optimizer"]["learning_rate"].partition("},")[2].rstrip("}").split(",")
    shipped = {
        n: OmegaConf.load(conf_dir() / f"optimizer/{n}.yaml") for n in OPTIMIZERS
    }
    targets = {s._target_: name for name, s in shipped.items() if "groups" not in s}
    pairs = zip(table[::2], table[1::2], strict=True)
    return {targets[target]: float(rate) for target, rate in pairs}


@pytest.fixture
def hydra():
    conf.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance()


@pytest.mark.parametrize("preset", [p.stem for p in (conf_dir() / "sweep").glob("*")])
def test_a_preset_sets_nothing_but_the_sweeper(preset):
    """conf/config.yaml comes after the presets, so it would win over anything else."""
    cfg = OmegaConf.load(conf_dir() / f"sweep/{preset}.yaml")
    assert set(cfg) <= {"defaults", "hydra"}
    set_later = OmegaConf.load(conf_dir() / "config.yaml").hydra
    assert not set(cfg.get("hydra", {})) & set(set_later)


@pytest.fixture
def tuned(hydra):
    """The jobs of `-m sweep=tuned optimizer=...` as text; needs no launcher."""

    def tuned(*arguments):
        cfg = compose("config", ["sweep=tuned"], return_hydra_config=True)
        sweeper = instantiate(cfg.hydra.sweeper)
        sweeper.config = cfg
        parser = OverridesParser.create(hydra.config_loader())
        (jobs,) = sweeper.split_arguments(parser.parse_overrides(list(arguments)), None)
        return jobs

    return tuned


def test_tuned_has_learning_rates_for_every_optimizer_and_they_compose(tuned):
    jobs = tuned("sweep=tuned", "optimizer=glob(*)", "seed=3")
    rates = {}
    for job in jobs:
        given = dict(override.split("=") for override in job)
        name, rate = given["optimizer"], float(given["optimizer.learning_rate"])
        if name in KINDS and name not in rates:  # the others compose alike
            assert compose("config", job).optimizer.learning_rate == rate
        rates.setdefault(name, []).append(rate)
    assert set(rates) == OPTIMIZERS
    best = best_rates()
    for name, tried in rates.items():
        assert tried == sorted(set(tried))
        own = OmegaConf.load(conf_dir() / f"optimizer/{name}.yaml").learning_rate
        if name in best:
            assert tried[len(tried) // 2] == best[name]
            continue
        assert min(tried) / 2 < own < max(tried) * 2, name
    header = (conf_dir() / "sweep/tuned.yaml").read_text().partition("defaults:")[0]
    assert f"are {len(jobs)} rates" in header


def test_tuned_gives_way_to_a_learning_rate_of_ones_own(tuned):
    jobs = tuned("optimizer=sgd,adam", "optimizer.learning_rate=0.5,0.25")
    assert [job[-1].partition("=")[2] for job in jobs] == ["0.5", "0.25"] * 2


def test_tuned_has_the_number_of_jobs_that_its_header_says(tuned):
    assert len(tuned("optimizer=sgd,adam", "seed=0,1,2")) == 30


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_space_is_of_arguments_of_its_optimizer(name):
    arguments = OmegaConf.load(conf_dir() / f"optimizer/{name}.yaml")
    parser = OverridesParser.create()
    space = OmegaConf.load(SEARCHES[name])
    for key, text in space.items():
        section, _, argument = key.partition(".")
        assert section == "optimizer" and argument in arguments, key
        assert parser.parse_override(f"{key}={text}").is_sweep_override()
    rate = parser.parse_override(f"x={space['optimizer.learning_rate']}").value()
    assert rate.start < best_rates()[name] < rate.end and "log" in rate.tags


def test_the_tuned_optimizers_can_be_searched():
    assert set(SEARCHES) == set(best_rates())


@needs_optuna
def test_optuna_searches_the_space_of_the_optimizer(folders, tmp_path):
    done = command_line.sweep(
        tmp_path,
        *("sweep=optuna", "optimizer=sgd", "hydra.sweeper.n_trials=4"),
        *("hydra.sweeper.n_jobs=2", "debug=tiny", "verify=false"),
        *("data=linear_ae", "model=linear_autoencoder"),
        f"compilation_cache={folders['xla']}",
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "HYDRA" not in said and "\x1b" not in said
    assert said.count("compare with: ") == 1
    sweep = tmp_path / "sweep"
    result = OmegaConf.load(sweep / "optimization_results.yaml")
    assert set(result.best_params) == set(OmegaConf.load(SEARCHES["sgd"]))
    rate_of = {}
    for path in sweep.rglob("summary.json"):
        recorded = json.loads((path.parent / "config.json").read_text())
        loss = json.loads(path.read_text())["final"]["validation/loss"]
        rate_of[loss] = recorded["optimizer"]["learning_rate"]
    assert len(rate_of) == len(set(rate_of.values())) == 4
    assert result.best_value == min(rate_of)
    assert result.best_params["optimizer.learning_rate"] == rate_of[min(rate_of)]


@needs_optuna
@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        ("yogi", "optimizer/search=yogi is not one of the choices of optimizer/search"),
        ("sgd,adam", "sweep=optuna searches one optimizer at a time"),
    ],
)
def test_optuna_refuses_what_has_no_space_of_its_own(tmp_path, optimizer, said):
    done = command_line.sweep(tmp_path, "sweep=optuna", f"optimizer={optimizer}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and said in done.stderr
    assert not list(tmp_path.iterdir())
