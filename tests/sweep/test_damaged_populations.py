"""A checkpoint of a population is used only if it, and its members' rows, are whole."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from helpers.damage import files_in, flipped, flips
from runner.core.shapes import start_shapes
from runner.job.checkpoint import Checkpoints
from runner.record.files import MetricsFile
from runner.settings import CheckpointSettings
from runner.sweep import population_checkpoints
from runner.sweep.population_checkpoints import left_over


@pytest.fixture
def population(built, tmp_path, monkeypatch):
    """The members of a population that was saved after the steps 10 and 20."""
    run = built("model.hidden_sizes=[4]", "train.epochs=null", "train.steps=30")
    members, files = [], {}
    for index, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        files[index] = MetricsFile(tmp_path / name / "metrics.jsonl")
        recorder = SimpleNamespace(folder=tmp_path / name, kept=True, provenance={})
        prepared = SimpleNamespace(recorder=recorder)
        job = SimpleNamespace(fingerprint=name, error=None)
        members.append(SimpleNamespace(job=job, prepared=prepared, run=run))
    shapes = start_shapes(run.spec, run.values, 2)
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    record = {
        "program": run.spec.description, "members": ["a", "b"], "size": 2,
        "going": [0, 1], "best_records": None, "wall_seconds": 1.0,
    }  # fmt: skip

    def describe(step):
        rows = {str(i): {"rows": file.written()} for i, file in files.items()}
        return record | {"members_rows": rows}

    settings = CheckpointSettings(10, None, 2, False, False, "auto")
    folder = tmp_path / "checkpoints" / "population"
    with Checkpoints(folder, settings, "", describe) as saver:
        for step in (10, 20):
            for file in files.values():
                file.write({"step": step, "train/loss": 0.5})
            saver.save(step, state, "always")
    for file in files.values():
        file.close()
    continued = []
    monkeypatch.setattr(
        population_checkpoints, "continued", lambda *given: continued.append(given[1:])
    )
    return SimpleNamespace(
        sweep=tmp_path, members=members, folder=folder, continued=continued
    )


def test_bits(population, capsys):
    def used():
        (saved,), others = left_over(population.sweep, population.members)
        assert not others and list(saved.active) == [0, 1]
        return saved.start.step

    assert used() == 20 and not capsys.readouterr().err
    assert [start.step for start, _ in population.continued] == [20, 20]
    newest = population.folder / "20"
    records = flips(files_in(newest / "record"), count=3, seed=1)
    for path, bit in [*flips(files_in(newest), count=5, seed=2), *records]:
        with flipped(path, bit):
            assert used() == 10
        assert f"{newest} is damaged" in capsys.readouterr().err
    metrics = population.sweep / "b" / "metrics.jsonl"
    size = metrics.stat().st_size // 2
    with flipped(metrics, 8 * size + 100):
        assert used() == 10
    assert f"{newest} is skipped: the rows in {metrics}" in capsys.readouterr().err
    assert population.continued[-1][1] == size


@pytest.mark.parametrize("damaged", ["record/metadata", "state/_METADATA"])
def test_none_is_whole(population, capsys, damaged):
    """The members start over, and it is said."""
    for path in population.folder.glob(f"*/{damaged}"):
        path.write_bytes(b"{}")
    saved, others = left_over(population.sweep, population.members)
    assert not saved and others == population.members
    assert f"none of the checkpoints in {population.folder}" in capsys.readouterr().err
