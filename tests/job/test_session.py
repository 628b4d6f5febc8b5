"""What jobs share: kept while it is used, made again when it was not, and bounded."""

import threading

from runner.job.session import Session


def test_the_same_key_is_made_once():
    session, made = Session(), []
    for _ in range(3):
        assert session.keep(("data", 1), lambda: made.append(1) or "data") == "data"
    assert made == [1]
    assert session.keep(("model", 1), lambda: "model") == "model"  # of another kind


def test_what_was_used_last_is_kept_of_each_kind():
    session = Session(most=2)
    session.keep(("model", 0), lambda: "model")
    for name in ("a", "b", "a", "c"):  # b is the one that was used longest ago
        session.keep(("data", name), lambda name=name: name)

    def kept(name: str) -> bool:
        return session.keep(("data", name), lambda: "again") == name

    assert kept("a") and kept("c")
    assert not kept("b")
    assert session.keep(("model", 0), lambda: "again") == "model"


def test_an_error_is_not_kept():
    session = Session()
    try:
        session.keep(("data", 1), lambda: 1 / 0)
    except ZeroDivisionError:
        pass
    assert session.keep(("data", 1), lambda: 7) == 7


def test_threads_that_ask_at_the_same_time_get_the_same():
    session, barrier, found = Session(), threading.Barrier(2), []

    def make():
        barrier.wait(10)  # both make one
        return object()

    def ask():
        found.append(session.keep(("program", 1), make))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1]


def test_a_program_is_compiled_once_and_its_time_counts_once(built):
    session = Session()
    run = built("framework=jax", "model.hidden_sizes=[5]", "train.epochs=1")
    first = session.program(run.spec, run.values, run.timetable)
    call = first.longest.result()
    again = session.program(run.spec, run.values, run.timetable)
    assert again.longest.result() is call
    assert first.compile_seconds() > 0.01 > again.compile_seconds()
    longer = run.timetable._replace(steps=3 * run.timetable.eval_every)
    other = session.program(run.spec, run.values, longer)
    assert other.longest.result() is call and other.init is first.init
