import pytest
from hydra.errors import MissingConfigException

from runner.cli import main
from runner.config.explain import explain

MISTAKEN = [
    ("optimizer=adamm", "optimizer=adamm is not one of", "\nDid you mean 'adam'?"),
    ("optimizer=ADAM", "\nDid you mean 'adam'?"),
    ("framework=NNX", "jax, linen, nnx.", "\nDid you mean 'nnx'?"),
    ("debug=tinyy", "nan, overfit, profile, tiny.", "\nDid you mean 'tiny'?"),
    ("schedule=reduce_on_plateau schedule@schedule.base=cosin", "mean 'cosine'?"),
    ("hydra/launcher=foo", "hydra/launcher=foo", "basic"),
    ("optimzer=adam", "no key 'optimzer'", "\nDid you mean 'optimizer'?"),
    ("train.step=3", "train has no key 'step'", "\nDid you mean 'steps'?"),
    ("optimizer.lr=0.1", "optimizer has no key 'lr'; it has", "learning_rate"),
    ("learning_rate=0.1", "Did you mean 'optimizer.learning_rate'?"),
    ("train.steps=abc", "train.steps=abc must be a whole number or null"),
    ("++train.steps=abc", "error: train.steps=abc must be"),
    ("train.log_every_steps=null", "train.log_every_steps=null must be a whole number"),
    ("train.log_every_steps=1.5", "train.log_every_steps=1.5 must be a whole number"),
    ("train.debug_nans=maybe", "train.debug_nans=maybe must be true or false"),
    ("train.ema_decay=abc", "train.ema_decay=abc must be a number or null"),
    ("wandb.tags=abc", "wandb.tags=abc must be a list, each item text or null"),
    ("seed=abc", "seed=abc must be a whole number"),
    ("train=5", "train=5 must be a section"),
    ("optimizer=null", "optimizer=null must be the name of a file in the group"),
    ("mesh=9", "mesh=9 must be the name of a file in the group mesh"),
    ("+optimizer=sgd", "optimizer=... without a +"),
    ("+optimizer.b1=3", "'optimizer.b1'"),
    ("~nothing", "'nothing' does not exist"),
    ("train.steps", "train.steps is not of the form key=value"),
    ("optimizer=[1", "optimizer=[1 is not of the form key=value"),
    ("optimizer=sgd,adam", "optimizer=sgd,adam is several values: add -m"),
    ("optimizer/foo=3", "Did you mean 'optimizer'?"),
    ("wandb.notes=a=b", "any of =,", "'wandb.notes=\"a=b\"'"),
    ("seed=1 -m seed=2,x optimizer=adamm", "optimizer=adamm is not one of"),
    ("seed=1 --config-dir /nowhere optimizer=sgd", "/nowhere"),
    ("--config-dir /nowhere", "/nowhere"),
    ("--config-name foo", "'foo'"),
    ("--cfg job --resolve", "train.eval_every_steps depends on", "data is loaded"),
]


@pytest.mark.parametrize(
    ("arguments", "said"), [(a, said) for a, *said in MISTAKEN], ids=lambda p: str(p)
)
def test_what_hydra_refuses_is_one_message(
    arguments, said, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("sys.argv", ["runner", *arguments.split()])
    monkeypatch.setattr("runner.job.run.run_job", None)
    with pytest.raises(SystemExit) as caught:
        main()
    told = str(caught.value.code)
    assert told.startswith("error: ") and all(part in told for part in said), told
    assert told.count("\n") <= 1 and "search path:" not in told
    assert "Traceback" not in capsys.readouterr().err
    assert not list(tmp_path.rglob("summary.json"))


def test_a_missing_extra_is_named():
    error = MissingConfigException("", "hydra/sweeper/optuna", ["basic", "grid"])
    assert "pip install 'jax-experiment-runner[optuna]'" in explain(error)
