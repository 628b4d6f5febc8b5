"""Makes data sets of text."""

import pytest

from helpers.text import POEM
from runner.data.text.dataset import text


@pytest.fixture
def made(tmp_path):
    """Makes a data set of what is in poem.txt, at first POEM."""
    file = tmp_path / "poem.txt"
    file.write_text(POEM)

    def made(**changes):
        given = dict(
            path=str(file), vocabulary="characters", block_size=8, windows="random",
            validation=0.2, test=None, documents=None, transforms=[], batch_size=4,
            reshuffle=True, mode="memory", device_limit_mb=256, memory_limit_mb=1024,
            data_dir=str(tmp_path / "cache"),
        )  # fmt: skip
        return text(**given | changes)

    return made
