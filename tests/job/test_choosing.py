"""Choices that decide rounding: made once, recorded, and kept on resume and replay."""

import json

import pytest

from helpers.at_night import one_in
from helpers.resuming import record
from helpers.training import SESSION
from runner.core import choose
from runner.core.choose import Choice
from runner.core.convolution import has_convolution
from runner.core.shapes import step_jaxpr
from runner.errors import ConfigError
from runner.job import choosing
from runner.job.build import build
from runner.job.session import Session

CNN = (
    "model=cnn", "model.channels=[4]", "model.hidden_size=8", "train.epochs=null",
    "framework=jax",
)  # fmt: skip
# What `ran` adds for an MLP.
NOT_MLP = ("~model.hidden_sizes", "data=digits")


@pytest.fixture
def shared_session():
    """None: a choice that is kept isn't made again."""


@pytest.fixture
def timed(monkeypatch):
    """Pretend that ways take these microseconds; returns the ways that were timed."""

    def timed(**times):
        asked = []

        def microseconds(ways, agree):
            asked.extend(ways)
            return {(form, size): times[form][size] for form, size in ways}

        monkeypatch.setattr(choosing, "microseconds", microseconds)
        return asked

    return timed


@pytest.mark.parametrize(
    "text",
    ["", "[]", "\x00", "{}", '{"microseconds": []}',
     '{"microseconds": {}, "convolution": "other", "by": "table", "members": 1}',
     '{"microseconds": {}, "convolution": "native", "by": "table", "members": "1"}',
     '{"microseconds": {"native": {"x": 1}}, "convolution": "native", "by": "table",'
     ' "members": 1}'],
)  # fmt: skip
def test_a_damaged_choice_is_named(tmp_path, text):
    path = tmp_path / "choice.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"choice\.json"):
        choosing._again(path, choose.FORMS, 1)


def by_another_table(monkeypatch, convolution):
    choice = Choice(convolution, 1, "table", {"native": {1: 1.0}, "patches": {1: 1.0}})
    monkeypatch.setattr(choose, "by_table", lambda *_: choice)


def test_the_default_follows_the_table(built):
    run = built(*CNN, "train.steps=4")
    form = run.config["train"]["convolution"]
    native = built(*CNN, "train.steps=4", "train.convolution=native")
    jaxpr = step_jaxpr(native.spec, native.values)
    assert run.choice == choose.by_table(jaxpr, "cpu", "cpu", choose.FORMS, 1)
    assert run.choice.by == "table" and run.choice.convolution == form
    has = has_convolution(step_jaxpr(run.spec, run.values))
    assert has == (form == "native")
    same = built(*CNN, "train.steps=4", f"train.convolution={form}")
    assert same.spec.key == run.spec.key and same.choice.by == "configuration"


def test_without_convolutions_there_is_nothing_to_choose(built):
    run = built("train.epochs=1")
    assert run.config["train"]["convolution"] == run.settings.convolution == "native"
    assert run.choice == choose.given("native")


def test_members_are_chosen_for_as_many_as_there_are(composed):
    short = "train.epochs=1", "framework=jax"
    run = build(composed(*short), SESSION, most=32).run
    assert run.choice.by == "table"
    host = *short, "data.mode=memory"
    assert build(composed(*host), SESSION, most=32).run.choice.members == 1
    single = *short, "train.steps_per_call=1"
    assert build(composed(*single), SESSION, most=32).run.choice.members == 1


@pytest.mark.parametrize("form", one_in(2, choose.FORMS[::-1]))
def test_the_fastest_way_is_measured_and_recorded(form, ran, timed, tmp_path):
    times = {name: {1: 1.0 if name == form else 2.0} for name in choose.FORMS}
    asked = timed(**times)
    small = *CNN, *NOT_MLP, "train.steps=4", "train.choose=measure"
    ran(tmp_path / "run", *small)
    assert asked == [("native", 1), ("patches", 1)]
    assert record(tmp_path / "run", "config")["train"]["convolution"] == form
    assert record(tmp_path / "run", "provenance")["choice"] == {
        "convolution": form, "members": 1, "by": "measurement",
        "microseconds": {name: {"1": t[1]} for name, t in times.items()},
    }  # fmt: skip


def test_ways_are_really_timed(built):
    run = built(*CNN, "train.steps=6", "train.choose=measure")
    assert run.choice.by == "measurement"
    native, patches = (run.choice.microseconds[form][1] for form in choose.FORMS)
    assert 1 < native < 1e7 and 1 < patches < 1e7
    again = built(*CNN, "train.steps=6", "train.choose=measure", "seed=1")
    assert again.choice is run.choice  # nothing is timed again


def test_a_population_is_timed_in_several_sizes(composed, timed):
    sizes = {1: 3.0, 8: 2.0, 20: 1.0}
    asked = timed(native=sizes)
    cfg = composed("train.epochs=1", "train.choose=measure", "framework=jax")
    choice = build(cfg, Session(), most=20).run.choice
    assert asked == [("native", n) for n in sizes]
    assert choice == ("native", 20, "measurement", {"native": sizes})


def test_a_run_alone_is_timed_however_little_memory_is_free(
    composed, timed, monkeypatch
):
    monkeypatch.setattr(choosing, "free_bytes", lambda: 0)
    asked = timed(native={1: 3.0})
    cfg = composed("train.epochs=1", "train.choose=measure", "framework=jax")
    choice = build(cfg, Session(), most=20).run.choice
    assert asked == [("native", 1)]
    assert choice == ("native", 1, "measurement", {"native": {1: 3.0}})


def test_a_sweep_that_continues_keeps_its_choice(composed, timed, tmp_path):
    cfg = composed(*CNN, "train.steps=4", "train.choose=measure")
    timed(native={1: 3.0, 8: 3.0}, patches={1: 4.0, 8: 2.0})
    first = build(cfg, Session(folder=tmp_path), most=8).run.choice
    assert first[:2] == ("patches", 8)
    asked = timed()
    again = build(cfg, Session(folder=tmp_path), most=1).run.choice
    assert again[:2] == ("patches", 1) and not asked  # alone, native is faster
    assert again.microseconds == first.microseconds
    (path,) = (tmp_path / "choices").iterdir()
    assert json.loads(path.read_text())["convolution"] == "patches"


@pytest.mark.parametrize("form", one_in(2, choose.FORMS[::-1]))
def test_a_run_is_resumed_in_its_recorded_form(form, ran, tmp_path, monkeypatch):
    small = *CNN, *NOT_MLP, "train.steps=12", "checkpoint.every_steps=4"
    by_another_table(monkeypatch, form)
    whole = ran(tmp_path / "whole", *small)
    ran(tmp_path / "cut", *small, stop=8)
    monkeypatch.undo()
    other = next(other for other in choose.FORMS if other != form)
    by_another_table(monkeypatch, other)
    assert ran(tmp_path / "cut", *small) == whole
    assert record(tmp_path / "cut", "config")["train"]["convolution"] == form
    resumed = ran(tmp_path / "new", *small, f"checkpoint.resume={tmp_path}/whole")
    assert record(tmp_path / "new", "config")["train"]["convolution"] == form
    assert resumed == whole


def test_a_form_that_is_given_is_not_chosen(built, timed):
    asked = timed()
    for form in choose.FORMS:
        run = built(*CNN, "train.choose=measure", "train.steps=4",
                    f"train.convolution={form}")  # fmt: skip
        assert run.choice == choose.given(form)
    assert not asked
