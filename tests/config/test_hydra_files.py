"""Hydra's own files and messages of a job."""

import pytest
from hydra.core.utils import JobReturn, JobStatus

from runner.config.hydra_files import discard_unused, hydra_files


def test_a_failed_job_is_reported_by_us_alone(capsys):
    hydra_files()
    failed = JobReturn(overrides=["seed=1"], status=JobStatus.FAILED)
    failed.return_value = ValueError("why")
    with pytest.raises(ValueError, match="why"):
        _ = failed.return_value
    assert capsys.readouterr() == ("", "")
    done = JobReturn(status=JobStatus.COMPLETED)
    done.return_value = 0.5
    assert done.return_value == 0.5


@pytest.mark.parametrize(
    ("files", "left"),
    [
        (["day/time/multirun.yaml"], []),
        (["day/time/multirun.yaml", "day/other/x"],
         ["day", "day/other", "day/other/x"]),
        (["day/time/multirun.yaml", "day/time/sweep.json"],
         ["day", "day/time", "day/time/multirun.yaml", "day/time/sweep.json"]),
        ([], []),
    ],
)  # fmt: skip
def test_a_sweep_that_never_began_leaves_nothing(tmp_path, files, left):
    (tmp_path / "keep").touch()
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder = tmp_path / "day/time"
    discard_unused(folder, (folder, folder.parent))
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {"keep", *left}
