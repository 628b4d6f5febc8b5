"""What `print=model` says of a run that isn't trained."""

import io
import re

import pytest

from helpers.training import SESSION
from runner.job.model_table import print_model

FROZEN = "+optimizer.groups.still={pattern: dense_0, frozen: true}"


@pytest.fixture
def shown(built):
    def shown(*overrides):
        run = built("model.hidden_sizes=[8]", "train.epochs=1", *overrides)
        out = io.StringIO()
        program = SESSION.program(run.spec, run.values, run.timetable)
        print_model(run, program, out)
        return [line.split() for line in out.getvalue().splitlines()]

    return shown


def test_it_has_every_parameter_and_the_sums(shown):
    lines = shown("data.batch_size=64")
    assert ["dense_0/kernel", "[64,", "8]", "float32", "512"] in lines
    assert ["all", "4", "arrays", "610"] in lines
    text = "\n".join(map(" ".join, lines))
    # Forward, and backward for both kernels and the hidden layer's outputs.
    flops = 2 * 64 * (2 * 64 * 8 + 3 * 8 * 10)
    found = re.search(r"FLOPs a step: ([\d,]+) in matrix products", text)
    assert found
    # The norms in the rows are products too.
    assert int(found[1].replace(",", "")) == flops + 2 * 2 * 610
    assert ["parameters", f"{4 * 610:,}"] in lines
    assert ["optimizer", "state", f"{2 * 4 * 610 + 4:,}"] in lines
    assert "temporary arrays, by XLA" in text


def test_groups_are_named_and_what_is_frozen_counted(shown):
    lines = shown(FROZEN)
    assert ["output/bias", "[10]", "float32", "10", "rest"] in lines
    assert ["dense_0/bias", "[8]", "float32", "8", "still", "(frozen)"] in lines
    assert ["90", "are", "trained,", "520", "frozen"] in lines
