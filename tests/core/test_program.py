"""Which runs share a compiled program, and that the rules of `choose` are used."""

import pytest

from helpers.training import SESSION, train_run
from runner.core import timetable
from runner.core.compiling import Compiling


@pytest.mark.parametrize(
    "override",
    [
        "seed=1", "optimizer.learning_rate=0.5", "optimizer.b1=0.5", "schedule=cosine",
        "train.epochs=3", "train.log_every_steps=3", "train.eval_every_steps=5",
        "wandb.name=x", "schedule.value=0.3", "seeds.order=3",
    ],
)  # fmt: skip
def test_numbers_share_a_program(override, assembled):
    assert assembled().spec.key == assembled(override).spec.key


@pytest.mark.parametrize(
    "override",
    [
        "framework=jax", "model=cnn", "model.hidden_sizes=[8]", "optimizer=sgd",
        "optimizer.nesterov=true", "task.label_smoothing=0.1", "data.batch_size=32",
        "schedule=reduce_on_plateau", "mesh=data", "train.ema_decay=0.9",
        "train.clip_global_norm=1.0", "train.gradient_accumulation=2",
        "train.steps_per_call=5", "data.mode=memory", "model.dropout=0.5",
        "task.class_weights=[1,1,1,1,1,1,1,1,1,2]", "precision=bfloat16",
        "precision.matmul=highest", "+metric@metrics.top5=top_k",
    ],
)  # fmt: skip
def test_structure_does_not(override, assembled):
    assert assembled().spec.key != assembled(override).spec.key


@pytest.mark.parametrize(
    ("model", "capacity"),
    [
        ("mlp", True),
        ("cnn train.convolution=native", False),
        ("cnn train.convolution=patches", True),
        ("linear_autoencoder", True),
    ],
)
def test_the_rule_is_applied_to_the_models(model, capacity, built):
    run = built(*f"model={model}".split(), "train.epochs=1")
    cut = SESSION.program(run.spec, run.values, run.timetable).cut
    assert (cut.steps > 1) == capacity


@pytest.mark.parametrize("framework", ["jax", "linen", "nnx"])
def test_no_call_waits_for_the_host(framework, built, monkeypatch):
    """XLA asks it at a conditional, and at each turn of a loop of unknown length."""
    monkeypatch.setattr(timetable, "SHORT", 0)
    run = built(f"framework={framework}", "optimizer=adam", "train.epochs=3",
                "train.log_every_steps=11", "model.hidden_sizes=[12]")  # fmt: skip
    program = SESSION.program(run.spec, run.values, run.timetable)
    assert program.cut == (11, (2, 1))
    compiled = [program.calls(n) for n in (0, 1, 2)]
    texts = [c.result().as_text() for c in [*compiled, program.evaluation.call]]
    loops = [line for text in texts for line in text.splitlines() if " while(" in line]
    assert len(loops) >= 4 and all("known_trip_count" in line for line in loops)
    assert not any(" conditional(" in text for text in texts)


def test_runs_with_one_program_compile_it_once(built, monkeypatch):
    first = built("train.epochs=1", "model.hidden_sizes=[12]")
    train_run(first, lambda row: None)
    made = []
    monkeypatch.setattr(Compiling, "_compile", lambda self: made.append(self))
    for override in ("seed=3", "schedule=linear", "optimizer.b2=0.9"):
        run = built("train.epochs=1", "model.hidden_sizes=[12]", override)
        train_run(run, lambda row: None)
    assert not made


@pytest.mark.parametrize(
    ("members", "overrides"),
    [
        (None, ("framework=linen",)),
        (None, ("framework=nnx",)),
        (3, ()),
        (None, ("train.gradient_accumulation=4",)),
    ],
)
def test_a_step_of_one_run_has_the_same_flops_however_it_is_trained(
    members, overrides, built
):
    def flops(members, *overrides):
        run = built("model.hidden_sizes=[8]", "train.epochs=1", *overrides)
        return SESSION.program(run.spec, run.values, run.timetable, members).flops

    alone = flops(None, "framework=jax")
    assert alone > 6 * 64 * 8 * 10
    assert flops(members, "framework=jax", *overrides) == alone


@pytest.mark.parametrize(("optimizer", "jumps"), [("adam", False), ("lion", True)])
def test_whether_a_step_takes_signs(optimizer, jumps, built):
    run = built("framework=jax", f"optimizer={optimizer}", "model.hidden_sizes=[8]")
    assert SESSION.program(run.spec, run.values, run.timetable).jumps is jumps
