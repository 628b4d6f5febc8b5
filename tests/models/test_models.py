"""What a model refuses."""

import pytest

from runner.errors import ConfigError


@pytest.mark.parametrize(
    "overrides,message",
    [
        (["model.hidden_sizes=[0]"], r"model\.hidden_sizes=\[0\] must be at least 1"),
        (["model=cnn", "model.channels=[8,0]"], r"model\.channels=.* at least 1"),
        (["model=cnn", "model.kernel_size=0"], r"model\.kernel_size=0 must be"),
        (["model=cnn", "model.hidden_size=-1"], r"model\.hidden_size=-1 must be"),
        (["model=cnn", "model.channels=[1,1,1,1]"], r"at least 16 pixels a side"),
        (["model=cnn", "data=linear_ae"], r"needs images"),
        (["model=linear_autoencoder", "model.latent_size=0"], r"model\.latent_size=0"),
        (["model.activation=one_hot"], r"model\.activation=one_hot is not an activ"),
        (["model.activation=reluu"], r"Did you mean 'relu'"),
        (["model.dropout=1.0"], r"model\.dropout=1\.0 must be at least 0 and below 1"),
        (["model=transformer"], r"takes tokens \[T\] of a known vocabulary"),
    ],
)
def test_impossible_sizes_are_refused(overrides, message, built):
    with pytest.raises(ConfigError, match=message):
        built(*overrides)


def test_a_model_without_hidden_layers_trains(trained):
    rows = trained("model.hidden_sizes=[]", "train.epochs=1")
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
