"""`hydra/sweeper=grid`: the jobs that it makes, and what it refuses."""

import json
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
from hydra._internal.core_plugins import basic_sweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from omegaconf import OmegaConf

from helpers import command_line

# As modules: Hydra's own tests make it run them anew.
from hydra_plugins import grid_sweeper
from runner.errors import ConfigError

RATE = "optimizer.learning_rate"
GRIDS = {"optimizer": {"sgd": {RATE: "0.1,0.3"}, "adam": {RATE: 0.001}, "lbfgs": None}}


def parsed(arguments):
    return OverridesParser.create().parse_overrides(list(arguments))


def batches(*arguments, max_batch_size=None, **options):
    """The batches of jobs, where the composed optimizer is adam."""
    sweeper = grid_sweeper.GridSweeper(max_batch_size, **options)
    choices = {"optimizer": "adam", "debug": None, "hydra/output": "default"}
    sweeper.config = OmegaConf.create(
        {"hydra": {"runtime": {"choices": choices}}, "train": {"steps": None}}
    )
    return sweeper.split_arguments(parsed(arguments), max_batch_size)


def jobs(*arguments, **options):
    (batch,) = batches(*arguments, **options)
    return [" ".join(job) for job in batch]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ("range(0.1,0.5,0.1)", "0.1 0.2 0.3 0.4"),
        ("range(0.5,1,0.1)", "0.5 0.6 0.7 0.8 0.9"),
        ("range(1e-6,4e-6,1e-6)", "1e-06 2e-06 3e-06"),
        ("range(3)", "0 1 2"),
        ("0.30000000000000004,0.1", "0.30000000000000004 0.1"),  # as it was asked for
    ],
)
def test_a_range_has_the_digits_of_its_step(values, texts):
    assert jobs(f"a={values}") == [f"a={text}" for text in texts.split()]


KEYS = ["seed", "+model.width", "schedule@schedule.base", "train.steps"]
VALUES = st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)
ARGUMENTS = st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=5)


@given(ARGUMENTS, st.none() | st.integers(1, 5))
def test_alone_it_makes_the_jobs_of_hydras_own_sweeper(arguments, size):
    lines = [f"{key}={','.join(map(str, values))}" for key, values in arguments]
    expected = basic_sweeper.BasicSweeper.split_arguments(parsed(lines), size)
    assert batches(*lines, max_batch_size=size) == expected


@given(st.permutations([*KEYS, "data.batch_size"]), st.integers(2, 3))
def test_zip_keeps_the_jobs_in_which_the_keys_are_at_the_same_place(keys, length):
    values = [str(v) for v in range(length)]
    lines = [f"{key}={','.join(values)}" for key in keys]
    one, two = ["train.steps", "seed"], ["+model.width", "data.batch_size"]

    def together(job):
        at = dict(override.split("=") for override in job.split())
        return all(at[a] == at[b] for a, b in (one, two))

    zipped = jobs(*lines, zip=[one, two])
    assert sorted(zipped) == sorted(filter(together, jobs(*lines)))
    assert len(zipped) == length**3


def test_a_flat_zip_is_one_group():
    arguments = ["optimizer=sgd,adam", "seed=0,1", f"{RATE}=0.1,0.001"]
    expected = [
        f"optimizer=sgd seed=0 {RATE}=0.1",
        f"optimizer=sgd seed=1 {RATE}=0.1",
        f"optimizer=adam seed=0 {RATE}=0.001",
        f"optimizer=adam seed=1 {RATE}=0.001",
    ]
    assert jobs(*arguments, zip=[RATE, "optimizer"]) == expected
    assert jobs(*arguments, zip=[["optimizer", RATE]]) == expected


def test_a_grid_is_swept_where_its_value_is():
    assert jobs("optimizer=adam,lbfgs,sgd", "seed=0,1", grids=GRIDS) == [
        f"optimizer=adam seed=0 {RATE}=0.001",
        f"optimizer=adam seed=1 {RATE}=0.001",
        "optimizer=lbfgs seed=0",
        "optimizer=lbfgs seed=1",
        f"optimizer=sgd seed=0 {RATE}=0.1",
        f"optimizer=sgd seed=0 {RATE}=0.3",
        f"optimizer=sgd seed=1 {RATE}=0.1",
        f"optimizer=sgd seed=1 {RATE}=0.3",
    ]


def test_without_an_override_the_composed_value_counts():
    assert jobs("seed=1", grids=GRIDS) == [f"seed=1 {RATE}=0.001"]
    assert jobs(grids={"train.steps": {"null": {"seed": "1,2"}}}) == [
        "seed=1",
        "seed=2",
    ]


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_an_override_of_ones_own_wins_over_a_grid(sign):
    arguments = ["optimizer=sgd,adam", f"{sign}{RATE}=5"]
    expected = [f"optimizer={name} {sign}{RATE}=5" for name in ("sgd", "adam")]
    assert jobs(*arguments, grids=GRIDS) == expected


def test_a_grid_may_choose_what_the_next_grid_looks_at():
    grids = {
        "optimizer": {"adam": {"schedule": "cosine,linear"}},
        "schedule": {"cosine": {"seed": "1,2"}, "linear": {}},
    }
    expected = ["schedule=cosine seed=1", "schedule=cosine seed=2", "schedule=linear"]
    assert jobs(grids=grids) == expected


@pytest.mark.parametrize("name", [0.1, "0.10", "1e-1"])
def test_numbers_are_found_however_they_are_written(name):
    grids = {RATE: {name: {"seed": "1,2"}}}
    expected = [f"{RATE}=0.1 seed=1", f"{RATE}=0.1 seed=2"]
    assert jobs(f"{RATE}=0.1", grids=grids) == expected


def test_batches_go_over_what_grids_add():
    sizes = [
        len(b) for b in batches("optimizer=sgd,adam", max_batch_size=2, grids=GRIDS)
    ]
    assert sizes == [2, 1]


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ("seed=1,2 a=1,2", {"zip": ["seed", "sed"]}, "sed, which .* seed, a. .*'seed'"),
        ("seed=1,2 a=1", {"zip": ["seed", "a"]}, "a, which isn't swept; .* are seed"),
        ("", {"zip": ["a"]}, "swept are no keys"),
        ("seed=1,2 a=1,2,3", {"zip": ["a", "seed"]}, "seed has 2, a has 3"),
        ("a=1,2 b=1,2 c=1,2", {"zip": [["a", "b"], ["c", "b"]]}, "has b twice"),
        ("a=1,2 b=1,2", {"zip": ["a", "a"]}, "has a twice"),
        ("a=1,2", {"zip": ["a", ["a"]]}, "must be a list of keys, or a list of such"),
        ("a=1,2", {"zip": [[]]}, "must be a list of keys, or a list of such"),
        ("optimizer=adm", {"grids": GRIDS}, "for adm; .* sgd, adam, lbfgs; .*'adam'"),
        ("", {"grids": {"optimzer": {}}}, "'optimzer', which is neither .*'optimizer'"),
        ("", {"grids": {"optimizer": 3}}, "grids.optimizer=3 must be a mapping"),
        ("", {"grids": {"optimizer": {"adam": "1,2"}}}, "adam=1,2 must be a mapping"),
        ("", {"grids": {"optimizer": {"adam": {"a": [1]}}}}, r"a=\[1\] must be text"),
        (
            "",
            {"grids": {"optimizer": {"adam": {"a": 1}}, "debug": {"null": {"a": 1}}}},
            "debug.null: another grid has a too",
        ),
        ("seed=0,1,0", {}, r"jobs 0 and 2 are equal \(seed=0\)"),
        ("seed=range(0,0)", {}, r"seed=range\(0,0\) has no values"),
        ("a=interval(0,1)", {}, r"a=interval\(0,1\) is a range"),
        ("seed=range(0,1000000)", {}, "would have 1,000,000 jobs, more than the 100,0"),
        ("a=range(0,1,1e-7)", {}, "would have 10,000,000 jobs"),
        ("a=range(0,1000) b=range(1000) c=1", {}, "would have 1,000,000 jobs"),
        (
            "a=range(0,1000)",
            {"grids": {"optimizer": {"adam": {"b": "range(0,1000)"}}}},
            "would have 1,000,000 jobs",
        ),
        ("", {"max_batch_size": 0}, "max_batch_size=0 must be a positive number"),
    ],
)  # fmt: skip
def test_what_it_refuses(arguments, options, said):
    with pytest.raises(ConfigError, match=said):
        jobs(*arguments.split(), **options)


def test_jobs_are_composed_first_unless_the_launcher_does_it(monkeypatch):
    composed = []
    own = lambda self, batch: composed.append(batch)  # noqa: E731
    monkeypatch.setattr(basic_sweeper.BasicSweeper, "validate_batch_is_legal", own)
    sweeper = grid_sweeper.GridSweeper()
    for launcher in (
        SimpleNamespace(),
        SimpleNamespace(composes_before_it_runs=True),
        SimpleNamespace(composes_before_it_runs=False),
    ):
        sweeper.launcher = launcher
        sweeper.validate_batch_is_legal([[str(launcher)]])
    assert [batch for ((batch,),) in composed] == [
        "namespace()",
        "namespace(composes_before_it_runs=False)",
    ]


def test_zip_on_the_command_line(folders, tmp_path):
    done = command_line.sweep(
        tmp_path,
        *("optimizer=sgd,adam", f"{RATE}=0.1,0.001"),
        f"hydra.sweeper.zip=[optimizer,{RATE}]",
        *("debug=tiny", "data=linear_ae", "model=linear_autoencoder"),
        *("verify=false", "framework=jax", f"compilation_cache={folders['xla']}"),
    )
    assert done.returncode == 0, done.stderr
    paths = (tmp_path / "sweep").rglob("config.json")
    ran = [json.loads(path.read_text())["optimizer"] for path in paths]
    settings = sorted((o["_target_"], o["learning_rate"]) for o in ran)
    assert settings == [("optax.adam", 0.001), ("optax.sgd", 0.1)]


def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path):
    done = command_line.sweep(tmp_path, "seed=0,0")
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr
        == "error: jobs 0 and 1 are equal (seed=0): a value is given twice\n"
    )
    assert not list(tmp_path.iterdir())
