"""Names of jobs: readable, and never one for two."""

from runner.sweep.job import job_name, varying


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
