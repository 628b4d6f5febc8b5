"""The embedded data set through `tfds_data`, with the arguments of conf/data."""

import pytest

from runner.data.tfds.dataset import tfds_data
from runner.errors import ConfigError


def load(data_dir, **changes):
    arguments = {
        "name": "digits",
        "splits": {"train": "train", "test": "test"},
        "columns": {"input": "image", "label": "label"},
        "unlabelled": "refuse",
        "transforms": [],
        "batch_size": 64,
        "mode": "auto",
        "memory_limit_mb": 1024,
        "device_limit_mb": 256,
        "data_dir": str(data_dir),
        "manual_dir": None,
        "download": False,
    }
    return tfds_data(**arguments | changes)


def config_error(*args, **kwargs) -> str:
    with pytest.raises(ConfigError) as error:
        load(*args, **kwargs)
    return str(error.value)
