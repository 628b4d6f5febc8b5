"""`python -m runner -m`, as a person runs it: folders, fates and the ledger."""

import json

import pytest

from helpers.swept import command, here, ledger, main, rows, run, states, summary
from runner.record import checksums

__all__ = ["command", "here", "main", "run"]  # fixtures


def test_each_job_has_its_own_folder_and_fate(run, tmp_path):
    # A negative rate is refused when the job is built, a NaN comes while it trains.
    status, said = run("optimizer=sgd,adam", "optimizer.learning_rate=0.1,1e30,-1")
    sweep = tmp_path / "sweep"
    assert status == 1
    assert states(sweep) == {"failed": 4, "done": 2}, said
    name = "optimizer=sgd,optimizer.learning_rate=-1"
    assert f"job {name} failed: the schedule's learning rate is -1.0" in said
    assert (
        "job optimizer=sgd,optimizer.learning_rate=1e+30 failed: train/loss is" in said
    )
    good = sweep / "optimizer=adam,optimizer.learning_rate=0.1"
    for file in ("config.json", "provenance.json", "runner.log", ".hydra/config.yaml",
                 ".hydra/hydra.yaml", ".hydra/overrides.yaml"):  # fmt: skip
        assert (good / file).is_file(), file
    assert summary(good)["status"] == "finished"
    assert summary(sweep / name)["status"] == "failed"
    config = json.loads((good / "config.json").read_text())
    assert config["optimizer"]["_target_"] == "optax.adam"
    assert config["hydra"]["choices"]["optimizer"] == "adam"
    assert (
        ledger(sweep)[good.name]["result"] == summary(good)["final"]["validation/loss"]
    )
    # At the end, the best settings, what failed, and where to go on.
    assert "4 of 6 jobs failed" in said
    assert "python -m runner.compare sweep --by optimizer" in said


def test_the_same_command_skips_what_is_done_and_retries_what_failed(here, tmp_path):
    assert here("optimizer=sgd", "seed=0,1,2")[0] == 0
    before = {
        path: path.stat().st_mtime_ns for path in tmp_path.glob("sweep/*/metrics.jsonl")
    }
    status, said = here("optimizer=sgd", "seed=0,1,2")
    assert status == 0, said
    status, said = here("optimizer=sgd", "seed=1,2,3")  # a grid that grew
    assert status == 0, said
    after = {
        path: path.stat().st_mtime_ns for path in tmp_path.glob("sweep/*/metrics.jsonl")
    }
    assert len(after) == 4 and before.items() <= after.items()
    # A failed one is tried again.
    failed = tmp_path / "sweep" / "seed=0" / "summary.json"
    text = failed.read_text().replace('"finished"', '"failed"')
    failed.write_text(text)
    (failed.parent / checksums.FILE).unlink()
    status, said = here("optimizer=sgd", "seed=0,1,2")
    assert status == 0 and summary(failed.parent)["status"] == "finished"
    assert states(tmp_path / "sweep") == {"done": 4}


@pytest.mark.parametrize(
    "swept",
    [
        ["+probe@probes.a=norm_by_layer,histogram"],
        ["+probe@probes.a=histogram", "probes.a.of=[updates],[gradients]"],
    ],
)
def test_jobs_that_differ_in_what_they_record_alone_are_two(here, tmp_path, swept):
    assert here(*swept)[0] == 0
    recorded = {
        frozenset(name for row in job for name in row if name.startswith("probe/"))
        for job in rows(tmp_path / "sweep").values()
    }
    assert len(recorded) == 2 and all(recorded)


def test_a_sweep_grows_in_a_key_that_the_new_command_doesnt_vary(here, tmp_path):
    rate = "optimizer.learning_rate"
    for values in ("0.1,0.2", "0.3", "0.4", "0.3,0.4,0.5"):
        status, said = here("seed=0,1", f"{rate}={values}")
        assert status == 0, said
    found = {path.parent.name for path in tmp_path.glob("sweep/*/summary.json")}
    rates = ("0.1", "0.2", "0.3", "0.4", "0.5")
    assert found == {
        f"seed={seed},{rate}={value}" for seed in (0, 1) for value in rates
    }
    assert states(tmp_path / "sweep") == {"done": 10}


@pytest.mark.parametrize("subdir", ["x", "${seed}", "", "../x", "seed/../x"])
def test_jobs_in_one_folder_are_refused_before_there_is_any(here, tmp_path, subdir):
    swept = ("seed=0,1", "optimizer=sgd,adam")
    status, said = here(*swept, f"hydra.sweep.subdir='{subdir}'")
    assert status == 1 and ("hydra.sweep.subdir" in said or "within" in said), said
    assert not (tmp_path / "sweep").exists()
    assert here(*swept, "hydra.sweep.subdir='${seed}${optimizer._target_}'")[0] == 0


def test_a_folder_of_an_earlier_job_is_no_new_ones(here, tmp_path):
    rate = "optimizer.learning_rate"
    assert here(f"{rate}=0.1,0.2", f"hydra.sweep.subdir='${{{rate}}}'")[0] == 0
    status, said = here(f"{rate}=0.3", "hydra.sweep.subdir='0.1'")
    assert status == 1 and "is the folder of another job" in said
    assert states(tmp_path / "sweep") == {"done": 2}
    assert here(f"{rate}=0.3", f"hydra.sweep.subdir='${{{rate}}}'")[0] == 0


@pytest.mark.parametrize("folder", ["", "' '", "${oc.env:NOT_SET_ANYWHERE,''}"])
def test_a_folder_without_a_name_is_refused(here, run, tmp_path, folder):
    status, said = run(f"hydra.sweep.dir={folder}", "seed=0,1", folder=None)
    assert status == 1 and "hydra.sweep.dir= is empty" in said
    assert not list(tmp_path.iterdir())


def test_another_base_is_refused_and_named(here, tmp_path):
    assert here("seed=0,1")[0] == 0
    status, said = here("seed=0,1", "data.batch_size=8")
    assert status == 1 and "data.batch_size=16, now 8" in said
    assert "hydra.sweep.dir" in said
    # W&B changes no result.
    assert here("seed=0,1", "wandb.tags=[again]")[0] == 0


def test_what_cant_be_composed_starts_nothing(here, tmp_path):
    status, said = here("seed=0,1", "optimizer.lerning_rate=0.1")
    assert status == 1 and "Did you mean 'learning_rate'?" in said
    assert not list(tmp_path.glob("sweep/*/"))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("hydra.launcher.strategy=vmpa", "Did you mean 'vmap'?"),
        ("hydra.launcher.max_members=0", "at least 1"),
    ],
)
def test_mistakes_in_the_launchers_own_keys(here, override, told):
    status, said = here("seed=0,1", override)
    assert status == 1 and told in said and "Traceback" not in said


def test_a_bug_in_a_job_shows_its_traceback_when_it_happens(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from runner.models.mlp import mlp\n"
        "def broken(*, inputs, output, dtype, hidden_sizes, width):\n"
        "    return mlp(inputs=inputs, output=output, dtype=dtype,\n"
        "               hidden_sizes=[width // (width - 4)], activation='relu',\n"
        "               dropout=0.0)\n"
    )
    model = tmp_path / "conf" / "model"
    model.mkdir(parents=True)
    (model / "broken.yaml").write_text(
        "_target_: mine.broken\nwidth: 8\nhidden_sizes: []\n"
    )
    status, said = run("--config-dir", "conf", "model=broken", "model.width=4,8")
    assert status == 1 and "ZeroDivisionError" in said and "in broken" in said
    assert states(tmp_path / "sweep") == {"failed": 1, "done": 1}
    error = (tmp_path / "sweep" / "model.width=4" / "error.txt").read_text()
    assert "ZeroDivisionError" in error


@pytest.mark.parametrize("strategy", ["vmap", "loop"])
def test_an_id_for_one_wandb_run_is_no_jobs(main, tmp_path, monkeypatch, strategy):
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    main("seed=0,1", f"hydra.launcher.strategy={strategy}")
    records = [json.loads(p.read_text()) for p in tmp_path.glob("*/provenance.json")]
    assert len({record["wandb_id"] for record in records} - {"abc"}) == 2


def test_a_warning_that_is_true_of_several_jobs_is_given_once(run):
    status, said = run("optimizer.learning_rate=0.1,0.01", "schedule=linear",
                       "schedule.transition_steps=2")  # fmt: skip
    assert status == 0, said
    assert said.count("warning: the learning rate is 0 after step 2") == 1
