"""A sweep's arguments are those of its jobs, whatever the default choices are."""

from types import SimpleNamespace

import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf

from helpers.at_night import one_in

# As a module: Hydra's own tests make it run again.
from hydra_plugins import grid_sweeper
from runner.config import conf, whole_sweep
from runner.errors import ConfigError
from runner.sweep.compose import Composer
from runner.sweep.job import compose_job


@pytest.fixture
def lines(monkeypatch):
    """The jobs of a command line, each as its overrides, and what composes them."""
    conf.register()
    GlobalHydra.instance().clear()
    monkeypatch.setattr(
        yaml, "SafeLoader", getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", whole_sweep._loaded)
    search = create_config_search_path(str(conf.conf_dir()))
    hydra = Hydra.create_main_hydra2("runner", search)

    def lines(*arguments):
        master = hydra.compose_config("config", list(arguments), RunMode.MULTIRUN)
        options = {k: v for k, v in master.hydra.sweeper.items() if k[0] != "_"}
        sweeper = grid_sweeper.GridSweeper(**options)
        sweeper.config = master
        context = SimpleNamespace(config_loader=hydra.config_loader)
        monkeypatch.setattr(sweeper, "hydra_context", context)
        given = [*sweeper._parse_config(), *master.hydra.overrides.task]
        parsed = sweeper._parser().parse_overrides(given)
        (jobs,) = sweeper.split_arguments(parsed, None)
        return jobs, Composer(hydra.config_loader, master).compose

    yield lines
    GlobalHydra.instance().clear()


WHOLE = ["experiment=adam_vs_sgd", "framework=jax", "seed=0"]


@pytest.mark.parametrize(
    ("arguments", "key", "values"),
    [
        (["optimizer=adamw,lion", "optimizer.weight_decay=0.1"],
         "optimizer.weight_decay", [0.1, 0.1]),
        (["optimizer=adamw,lion", "~optimizer.weight_decay"],
         "optimizer.weight_decay", [None, None]),
        (["optimizer=lion,sgd", "++optimizer.b2='0.5'"], "optimizer.b2", ["0.5"] * 2),
        # Other types of values.
        pytest.param(
            ["optimizer=lion,sgd", "+optimizer.eps=[1,2]"], "optimizer.eps",
            [[1, 2]] * 2, marks=pytest.mark.nightly,
        ),
        pytest.param(
            ["model=cnn,linear_autoencoder", "+model.name="], "model.name", ["", ""],
            marks=pytest.mark.nightly,
        ),
        (["schedule=reduce_on_plateau", "schedule@schedule.base=linear,polynomial",
          "schedule.base.end_value=1"], "schedule.base.end_value", [1, 1]),
        # Where a preset sweeps the group, or is swept itself.
        ([*WHOLE, "~optimizer.nesterov", "+optimizer.momentum=1"],
         "optimizer.momentum", [1, 1]),
        (["debug=tiny,overfit", "model=linear_autoencoder", "model.latent_size=3"],
         "model.latent_size", [3, 3]),
    ],
)  # fmt: skip
def test_a_key_in_a_swept_group_is_of_each_jobs_choice(lines, arguments, key, values):
    jobs, compose = lines(*arguments)
    assert [OmegaConf.select(compose(job), key) for job in jobs] == values


@pytest.mark.parametrize(
    "arguments",
    [
        ["seed=0,1", "optimizer.weight_decay=0.1"],
        ["schedule=linear,cosine", "optimizer.weight_decay=0.1", "train.no_such=1"],
        ["experiment=adam_vs_sgd", "model.no_such=1"],
    ],
)
def test_a_key_in_no_swept_group_is_refused_before_the_jobs(lines, arguments):
    with pytest.raises(ConfigCompositionException, match="Could not override"):
        lines(*arguments)


def test_of_a_swept_groups_keys_each_job_refuses_what_it_has_not(lines):
    (first, second), compose = lines("optimizer=adamw,sgd", "optimizer.weight_decay=1")
    assert compose(first).optimizer.weight_decay == 1
    with pytest.raises(ConfigCompositionException, match=r"optimizer\.weight_decay"):
        compose(second)


def test_swept_presets_keep_what_each_sweeps_itself(lines):
    jobs, compose = lines("experiment=adam_vs_sgd,schedules")
    assert [job[0] for job in jobs] == (
        ["experiment=adam_vs_sgd"] * 18 + ["experiment=schedules"] * 45
    )
    alone = [lines(f"experiment={name}")[0] for name in ("adam_vs_sgd", "schedules")]
    assert [set(job) for job in jobs] == [set(job) for one in alone for job in one]
    assert compose(jobs[0]).model.latent_size == 8
    assert compose(jobs[18]).optimizer.learning_rate == 3e-3


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        # Overrides of one's own win in each.
        (["seed=5,6,7,8", "experiment=schedules,adam_vs_sgd"], 60 + 24),
        (["sweep=grid,tuned", "optimizer=sgd"], 1 + 5),
        pytest.param(
            ["experiment=adam_vs_sgd,schedules", "debug=tiny,overfit"], 36 + 90,
            marks=pytest.mark.nightly,
        ),
        (["debug=tiny,overfit", "seed=0,1"], 4),
    ],
)  # fmt: skip
def test_presets_of_any_group_are_counted(lines, arguments, count):
    jobs, _ = lines(*arguments)
    assert len({tuple(job) for job in jobs}) == len(jobs)
    assert len(jobs) == count


def test_presets_with_another_sweeper_are_refused(lines):
    with pytest.raises(ConfigError, match="sweep=optuna has a sweeper of its own kind"):
        lines("sweep=grid,optuna", "optimizer=sgd")


@pytest.mark.parametrize(
    "asked",
    one_in(2, [
        (["wandb.notes=a,b", "checkpoint.keep=3,4", "seed=0"], 4),
        (["checkpoint.every_steps=5,10"], 2),
        (["wandb=offline,disabled"], 2),
        (["train.log_every_steps=1,2", "objective=train/loss,validation/loss"], 4),
        (["debug=tiny,profile", "train.epochs=1", "train.steps=null"], 2),
        (["compilation_cache=a,b", "data.download=true,false"], 4),
    ]),
)  # fmt: skip
def test_jobs_that_differ_in_what_is_recorded_are_two(lines, asked):
    arguments, count = asked
    jobs, compose = lines(*arguments)
    composer = compose.__self__
    # As in batches of one job, in which nothing varies.
    found = {compose_job(composer, job, 0, []).fingerprint for job in jobs}
    assert len(found) == count
