"""Jobs composed the quick way are what Hydra composes."""

import pytest
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from runner.config import conf
from runner.config.hydra_files import Sections, to_yaml, write_yaml
from runner.config.hydra_job import hydra_aside
from runner.config.plain import plain
from runner.record.secrets import forgotten
from runner.sweep.compose import Composer

JOBS = [
    ["seed=1"],
    ["seed=2", "optimizer=sgd", "optimizer.momentum=0.9"],
    ["optimizer=adam", "optimizer.b1=0.5", "schedule=cosine", "train.epochs=3"],
    ["+optimizer.mask=null", "optimizer.b1=0.5"],
    ["~optimizer.b1", "seed=3"],
    [
        "schedule=reduce_on_plateau",
        "schedule@schedule.base=cosine",
        "schedule.factor=0.1",
    ],
    ["experiment=adam_vs_sgd", "framework=jax", "model.latent_size=4"],
    ["seed=1", "seed=2"],
    ["optimizer.b1=0.5", "++optimizer={b1: 0.7}"],
    ["metrics={}", "+metrics.more={_target_: some.function}"],
    ["++optimizer={b1: 0.7}", "optimizer.b1=0.5"],
    ["hydra.job.name=other", "seed=4"],
    ["wandb.tags=[a,b]", "wandb.name='a, b'", "model.hidden_sizes=[3]"],
    [],
]


@pytest.fixture
def loader():
    GlobalHydra.instance().clear()
    conf.register()
    hydra = Hydra.create_main_hydra2(
        "runner", create_config_search_path(str(conf.conf_dir()))
    )
    yield hydra
    GlobalHydra.instance().clear()


def master(hydra):
    return hydra.compose_config("config", ["train.epochs=5"], run_mode=RunMode.MULTIRUN)


def as_text(cfg):
    """All of a job's configuration but what it is called, which the launcher says."""
    with open_dict(cfg.hydra.job):
        cfg.hydra.job.override_dirname = ""
    return OmegaConf.to_yaml(cfg)


def test_each_job_is_as_hydra_has_it(loader):
    whole = master(loader)
    composer = Composer(loader.config_loader, whole)
    load = loader.config_loader.load_sweep_config
    wanted = [as_text(load(whole, overrides)) for overrides in JOBS]
    for _ in range(2):
        for overrides, text in zip(JOBS, wanted, strict=True):
            assert as_text(composer.compose(overrides)) == text, overrides


@pytest.mark.parametrize(
    "wrong", ["optimizer.lerning_rate=1", "seed=x", "optimizer=no_such", "+seed=1,2"]
)
def test_mistakes_are_told_as_hydra_tells_them(loader, wrong):
    whole = master(loader)
    composer = Composer(loader.config_loader, whole)
    with pytest.raises(HydraException) as ours:
        composer.compose(["seed=1", wrong] if "seed" not in wrong else [wrong])
    with pytest.raises(HydraException) as theirs:
        loader.config_loader.load_sweep_config(
            whole, ["seed=1", wrong] if "seed" not in wrong else [wrong]
        )
    assert str(ours.value) == str(theirs.value)


def test_jobs_of_a_sweep_write_what_each_would_alone(loader, tmp_path):
    """Sections are those of this job, whatever jobs before it had there."""
    sections, path = Sections(), tmp_path / "x.yaml"
    composer = Composer(loader.config_loader, master(loader))
    for overrides in [*JOBS, *JOBS, ["train.ema_decay=1"], ["train.ema_decay=1.0"]]:
        found = composer.compose(overrides)
        hydra = plain(found.hydra)
        sections.write(path, hydra, "hydra")
        assert path.read_text() == to_yaml({"hydra": hydra}), overrides
        with hydra_aside(found):
            sections.write(path, plain(found))
            assert path.read_text() == to_yaml(plain(found)), overrides


def test_a_secret_of_a_later_section_is_in_no_file(tmp_path):
    sections, path = Sections(), tmp_path / "x.yaml"
    notes, own = "see s3cr3t-of-mine", {"api_key": "s3cr3t-of-mine"}
    with forgotten():
        sections.write(path, {"notes": notes})
        assert notes in path.read_text()
        for _ in range(2):
            sections.write(path, {"notes": notes, "own": own})
            assert path.read_text() == to_yaml({"notes": notes, "own": own})
            assert "s3cr3t" not in path.read_text()


def test_the_files_in_dot_hydra_hold_what_hydra_writes(loader, tmp_path):
    found = Composer(loader.config_loader, master(loader)).compose(["seed=1"])
    for node in (found, found.hydra, found.optimizer, found.hydra.overrides.task):
        write_yaml(tmp_path / "x.yaml", plain(node))
        again = OmegaConf.load(tmp_path / "x.yaml")
        assert OmegaConf.to_yaml(again) == OmegaConf.to_yaml(node)
