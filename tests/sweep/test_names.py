"""Names of jobs and folders: readable, stable, and never one for two."""

from hypothesis import given
from hypothesis import strategies as st

from runner.sweep.names import LONGEST, folder_name, job_name, varying


def test_a_job_is_called_after_what_tells_it_from_the_others():
    jobs = [
        ["optimizer=sgd", "train.epochs=3", "seed=0"],
        ["optimizer=adam", "train.epochs=3", "seed=0", "+optimizer.b1=0.5"],
    ]
    keys = varying(jobs)
    assert keys == ["optimizer", "+optimizer.b1"]
    assert job_name(jobs[0], keys) == "optimizer=sgd"
    assert job_name(jobs[1], keys) == "optimizer=adam,optimizer.b1=0.5"
    alone = jobs[0]
    assert job_name(alone, varying([alone])) == "optimizer=sgd,train.epochs=3,seed=0"


def test_folder_names():
    assert folder_name("optimizer=adam,seed=0") == "optimizer=adam,seed=0"
    assert folder_name("") == "default"
    assert "/" not in folder_name("data.data_dir=/tmp/x")
    assert folder_name("a=[1]") != folder_name("a=(1)")
    assert folder_name("..") not in (".", "..")


@given(st.lists(st.text(min_size=1), min_size=2, max_size=5, unique=True))
def test_two_names_never_share_a_folder(names):
    folders = [folder_name(name) for name in names]
    assert len(set(folders)) == len(folders)
    for folder in folders:
        assert "/" not in folder and "\0" not in folder and folder not in (".", "..")
        assert 0 < len(folder) <= LONGEST + 9
