from hydra.errors import MissingConfigException

from runner.config.explain import explain


def test_a_missing_extra_is_named():
    error = MissingConfigException("", "hydra/sweeper/optuna", ["basic", "grid"])
    assert "pip install 'jax-experiment-runner[optuna]'" in explain(error)
