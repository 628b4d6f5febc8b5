import pytest

from helpers.compare_runs import write_run
from runner.compare import controlled
from runner.compare.asked import factor_of
from runner.compare.columns import cell_keys, tuned_keys
from runner.compare.load import load

ADAM, SGD = [0.1, 0.2, 0.3], [1.0, 2.0, 3.0]

DATA = {"train": {"input": "a", "label": "b"}}


def facts(probe=ADAM, seed=0, **more):
    return {
        "optimizer_probe": probe,
        "initial_parameters": f"init-{seed}",
        "data_order": f"order-{seed}",
        "data_digest": DATA,
        "first_batch": f"batch-{seed}",
        **more,
    }


@pytest.fixture
def table(tmp_path):
    """The table of runs, each given as `write_run` takes them."""

    def table(*runs):
        for i, run in enumerate(runs):
            seed = run.get("seed", 0)
            run = {"provenance": facts(seed=seed)} | run
            write_run(tmp_path / str(i), **run)
        return load([tmp_path]).table

    return table


def control(table, by):
    return controlled.control(table, by, tuned_keys(table, by), {})


def names(control):
    return [key.name for key in control.confounders]


def roles(control):
    return {key.name: key.role for key in control.keys}


def test_flax_4087_is_confounded_by_the_optimizer(table):
    found = control(
        table(
            {"framework": "jax", "optimizer": "adam"},
            {"framework": "linen", "optimizer": "sgd", "provenance": facts(SGD)},
        ),
        "framework",
    )
    assert not found.controlled
    assert names(found) == ["optimizer", "optimizer probe"]
    assert found.confounders[0].by_group == "jax: adam; linen: sgd"
    assert found.confounders[1].by_group == "jax: probe 1; linen: probe 2"


def test_flax_4087_as_it_was_only_the_probes_tell(table):
    found = control(
        table(
            {"framework": "jax"},
            {"framework": "linen", "provenance": facts(SGD)},
        ),
        "framework",
    )
    assert names(found) == ["optimizer probe"] and not found.controlled
    (mislabeled,) = found.apart["MISLABELED"]
    assert mislabeled.startswith(
        "0 and 1 are configured with the same optimizer=adam, "
    )


def test_a_schedules_probe_is_its_consequence_and_not_mislabeled(table):
    runs = table(
        {"schedule": "constant"}, {"schedule": "cosine", "provenance": facts(SGD)}
    )
    found = control(runs, "schedule")
    assert found.controlled and roles(found)["optimizer probe"] == "consequence"


def test_a_small_weight_decay_left_out_is_noticed(table):
    found = control(
        table(
            {"framework": "jax", "provenance": facts([0.1, 1e-7])},
            {"framework": "linen", "provenance": facts([0.1, 0.0])},
        ),
        "framework",
    )
    assert names(found) == ["optimizer probe"] and found.apart["MISLABELED"]


def test_probes_may_differ_by_rounding(table):
    found = control(
        table(
            {"framework": "jax"},
            {"framework": "linen", "provenance": facts([0.1000001, 0.2, 0.3])},
        ),
        "framework",
    )
    assert found.controlled and not found.apart and not found.unknown


def test_an_optimizers_own_keys_and_probe_are_its_consequences(table):
    runs = [
        {"optimizer": name, "seed": seed, "provenance": facts(probe, seed)}
        for name, probe in (("adam", ADAM), ("sgd", SGD))
        for seed in (0, 1)
    ]
    runs = [run | {"config": {"optimizer.learning_rate": 1.0}} for run in runs[:2]] + [
        run | {"config": {"optimizer.learning_rate": 2.0}} for run in runs[2:]
    ]
    found = control(table(*runs), "optimizer")
    assert found.controlled and not found.unmatched
    kinds = roles(found)
    assert kinds["optimizer"] == "factor" and kinds["seed"] == "crossed"
    for key in ("optimizer.b1", "optimizer.learning_rate", "schedule.value"):
        assert kinds[key] == "consequence"
    assert kinds["optimizer probe"] == "consequence"
    # They follow from the seed, and no two matches differ in them.
    assert not {"initial parameters", "data order", "first batch"} & set(kinds)


def test_a_learning_rate_grid_is_tuned_and_one_each_confounds(table, tmp_path):
    grid = [
        {"schedule": s, "config": {"optimizer.learning_rate": lr}}
        for s in ("constant", "cosine")
        for lr in (0.1, 0.01)
    ]
    runs = table(*grid)
    found = control(runs, "schedule")
    assert found.controlled and roles(found)["optimizer.learning_rate"] == "tuned"
    assert tuned_keys(runs, "schedule") == ["optimizer.learning_rate"]
    # At what only one of them tried, nothing is compared.
    unequal = control(runs[[0, 1, 2]], "schedule")
    assert unequal.controlled and unequal.unmatched == ("1",)
    assert tuned_keys(runs[[0, 1, 2]], "schedule") == []
    assert cell_keys(runs[[0, 1, 2]], "schedule", []) == ["optimizer.learning_rate"]
    one_each = runs[[0, 3]]
    assert names(control(one_each, "schedule")) == ["optimizer.learning_rate"]


@pytest.mark.parametrize(
    "name, change",
    [
        ("seed", {"seed": 1}),
        ("data order", {"provenance": facts(data_order="other")}),
        ("initial parameters", {"provenance": facts(initial_parameters="other")}),
        ("devices", {"provenance": facts(devices=["gpu"])}),
        ("packages.optax", {"provenance": facts(packages={"optax": "0.3"})}),
        ("git.commit", {"provenance": facts(git={"commit": "b", "dirty": False})}),
        ("git.dirty", {"provenance": facts(git={"commit": "c0ffee", "dirty": True})}),
        ("model", {"model": "cnn"}),
        ("verify", {"config": {"verify": False}}),
        (
            "data_digest.train.label",
            {"provenance": facts(data_digest={"train": {"input": "a", "label": "c"}})},
        ),
        (
            "data_digest.train.label",
            {"provenance": facts(data_digest={"train": {"input": "a"}})},
        ),
        (
            "data_digest.files",
            {"provenance": facts(data_digest={"files": [{"path": "/x"}]})},
        ),
        ("first batch", {"provenance": facts(first_batch="other")}),
        ("module_digests.mine", {"provenance": facts(module_digests={"mine": "b"})}),
        ("runner_files", {"provenance": facts(runner_files="b")}),
        ("packages.scipy", {"provenance": facts(packages={"scipy": "2"})}),
        (
            "environment.NVIDIA_TF32_OVERRIDE",
            {"provenance": facts(environment={"NVIDIA_TF32_OVERRIDE": "0"})},
        ),
        (
            "environment.jax_enable_x64",
            {"provenance": facts(environment={"jax_enable_x64": "True"})},
        ),
        ("train.clip_global_norm", {"config": {"train.clip_global_norm": 1.0}}),
    ],
)
def test_each_thing_that_differs_with_the_factor_is_named(table, name, change):
    before = facts(
        module_digests={"mine": "a"},
        packages={"optax": "0.2.8", "scipy": "1"},
        runner_files="a",
        environment={"jax_enable_x64": "False"},
    )
    base = {"config": {"verify": True}, "provenance": before}
    runs = table({"framework": "jax", **base}, {"framework": "nnx", **base, **change})
    found = control(runs, "framework")
    assert name in names(found) and not found.controlled


def test_what_differs_within_a_group_too_but_has_matches_is_controlled(table):
    runs = [
        {"framework": f, "optimizer": o, "seed": s}
        for f in ("jax", "linen", "nnx")
        for o in ("adam", "sgd")
        for s in (0, 1)
    ]
    runs = [
        r | {"provenance": facts(ADAM if r["optimizer"] == "adam" else SGD, r["seed"])}
        for r in runs
    ]
    crossed = table(*runs)
    found = control(crossed, "framework")
    assert found.controlled and roles(found)["optimizer"] == "crossed"
    assert "framework._target_" in roles(found)
    assert cell_keys(crossed, "framework", []) == ["optimizer"]
    assert factor_of(crossed, None) == "optimizer"
    # Without jax+sgd, jax+adam still has matches, and the others are listed.
    part = crossed.filter(
        ~((crossed["framework"] == "jax") & (crossed["optimizer"] == "sgd"))
    )
    found = control(part, "framework")
    assert found.controlled
    assert len(found.unmatched) == 4


def test_a_swap_in_two_keys_at_once_is_confounded(table):
    # Each key has the same values in both groups, and yet no run has a match.
    runs = table(
        {"framework": "jax", "optimizer": "adam", "model": "mlp"},
        {"framework": "jax", "optimizer": "sgd", "model": "cnn"},
        {"framework": "nnx", "optimizer": "adam", "model": "cnn"},
        {"framework": "nnx", "optimizer": "sgd", "model": "mlp"},
    )
    assert set(names(control(runs, "framework"))) & {"optimizer", "model"}


def test_one_odd_group_of_three_is_enough(table):
    runs = table(
        {"framework": "jax"}, {"framework": "nnx"}, {"framework": "linen", "seed": 7}
    )
    found = control(runs, "framework")
    assert names(found) == ["seed"]
    assert found.confounders[0].by_group == "jax: 0; linen: 7; nnx: 0"


def test_what_was_not_recorded_is_unknown_and_not_equal(table):
    runs = table({"framework": "jax"}, {"framework": "nnx", "provenance": {}})
    found = control(runs, "framework")
    assert found.controlled
    assert [u.split(" (")[0] for u in found.unknown] == [
        "optimizer probe",
        "initial parameters",
        "data",
        "data order",
        "first batch",
    ]
    assert "1 of 2 runs" in found.unknown[0]


def test_what_is_every_runs_own_is_ignored(table):
    runs = table(
        {"framework": "jax", "provenance": facts(hostname="a", started="1")},
        {
            "framework": "nnx",
            "provenance": facts(hostname="b", started="2"),
            "config": {"wandb.name": "x", "train.log_every_steps": 7},
        },
    )
    found = control(runs, "framework")
    assert found.controlled
    assert set(roles(found)) == {"framework", "framework._target_"}


@pytest.mark.parametrize("change", [[], ["devices: 1 x cpu up to step 10, ..."]])
def test_a_run_that_was_changed_on_its_way_is_another(table, change):
    """Resumed bit for bit it isn't."""
    resumed = {"restarts": [{"step": 10, "after": "killed"}], "changes": change}
    runs = table(
        {"optimizer": "adam", "provenance": facts(changes=[], restarts=[])},
        {"optimizer": "sgd", "provenance": facts(SGD, **resumed)},
    )
    found = control(runs, "optimizer")
    assert found.controlled == (not change)
    assert names(found) == (["changes"] if change else [])


def test_what_the_data_decide_is_their_consequence(table):
    other = {"data_digest": {"train": {"input": "z"}}, "first_batch": "other"}
    runs = table({"data": "digits"}, {"data": "kmnist", "provenance": facts(**other)})
    found = control(runs, "data")
    assert found.controlled
    assert roles(found)["data_digest.train.label"] == "consequence"


def test_data_that_confound_are_named_once(table):
    other = {"data_digest": {"train": {"input": "z"}}, "first_batch": "other"}
    runs = table(
        {"framework": "jax", "data": "digits"},
        {"framework": "nnx", "data": "kmnist", "provenance": facts(**other)},
    )
    assert names(control(runs, "framework")) == ["data"]


def test_code_that_only_some_runs_load_says_nothing(table):
    """In a sweep, what is loaded depends on the jobs before."""
    loaded = {"module_digests": {"mine": "a"}, "packages": {"scipy": "1"}}
    runs = table(
        {"framework": "jax", "provenance": facts(module_digests={}, packages={})},
        {"framework": "nnx", "provenance": facts(**loaded)},
    )
    assert control(runs, "framework").controlled


def test_a_variable_of_the_machine_alone_is_ignored(table):
    machine = facts(environment={"JAX_COMPILATION_CACHE_DIR": "/x"})
    runs = table(
        {"framework": "jax", "provenance": facts(environment={})},
        {"framework": "nnx", "provenance": machine},
    )
    assert control(runs, "framework").controlled


def test_code_is_a_consequence_of_the_commit_asked_about(table):
    def at(commit):
        git = {"commit": commit, "dirty": False}
        return {"provenance": facts(git=git, module_digests={"mine": commit})}

    found = control(table(at("a"), at("b")), "provenance.git.commit")
    assert found.controlled


def test_records_without_the_newer_facts_are_read(table):
    old = facts()
    for name in ("data_digest", "first_batch"):
        del old[name]
    new = facts(environment={"jax_enable_x64": "False"}, module_digests={"mine": "a"})
    found = control(
        table(
            {"framework": "jax", "provenance": old},
            {"framework": "nnx", "provenance": new},
        ),
        "framework",
    )
    assert found.controlled
    assert found.unknown == (
        "data (not recorded in 1 of 2 runs)",
        "first batch (not recorded in 1 of 2 runs)",
        "mine (code that only nnx has loaded)",
    )
