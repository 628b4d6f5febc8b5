from hydra.errors import MissingConfigException

from runner.config.explain import explain


def test_a_file_of_the_users_own_is_found_without_its_option(tmp_path, monkeypatch):
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").touch()
    monkeypatch.chdir(tmp_path)
    error = MissingConfigException("", "model/mine", ["cnn", "mlp"])
    said = explain(error)
    assert said.endswith("conf/model/mine.yaml is there: add --config-dir conf")


def test_a_missing_extra_is_named():
    error = MissingConfigException("", "hydra/sweeper/optuna", ["basic", "grid"])
    assert "pip install 'jax-experiment-runner[optuna]'" in explain(error)
