"""How a run is cut into calls, for any intervals: every step is taken once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runner.core.timetable import SHORT, Timetable

STEPS = st.integers(1, 12_000)
EVERY = st.integers(1, 3_000)


@given(STEPS, EVERY, EVERY, st.none() | EVERY, st.integers(1, 1024))
def test_every_step_is_taken_once(steps, eval_every, log_every, save_every, most):
    table = Timetable(steps, eval_every, log_every, save_every)
    cut = table.cut(most)
    assert 1 <= cut.steps <= most and all(n * cut.block > 1 for n in cut.lengths)
    step, ends, singles = 0, set(), 0
    while step < steps:
        blocks = cut.after(step, table.next_stop(step))
        first, step = step, step + max(1, blocks * cut.block)
        singles += blocks == 0
        # The logged steps are ends of blocks, or the first one.
        logged = first + 1 + np.flatnonzero(table.logged[first:step])
        block = cut.block if blocks else 1
        assert np.all(((logged - first) % block == 0) | (logged == 1))
        ends.add(step)
    every = [n for n in (eval_every, save_every) if n]
    assert {i for n in every for i in range(n, steps, n)} | {steps} <= ends


@given(
    st.integers(SHORT, 12_000), EVERY, EVERY, st.none() | EVERY, st.integers(2, 1024)
)
def test_a_block_alone_is_rare(steps, eval_every, log_every, save_every, most):
    """It takes its steps twice: a run may end so, but not every interval."""
    table = Timetable(steps, eval_every, log_every, save_every)
    cut = table.cut(most)
    step, alone = 0, 0
    while step < steps:
        blocks = cut.after(step, table.next_stop(step))
        step += max(1, blocks * cut.block)
        alone += blocks == 1
    crosses = save_every and max(save_every, eval_every) % min(save_every, eval_every)
    stops = steps // eval_every + steps // save_every if crosses else 0
    assert alone <= stops + 1
    assert cut.block == 1 or cut.block >= 4


def test_checkpoints_between_evaluations_cost_few_calls():
    for table, most, calls in [
        (Timetable(10_000, 1_030, 20, 1_000), 1024, 100),
        (Timetable(10_000, 250, 25, 300), 512, 160),
        (Timetable(23_450, 469, 50, 1_000), 512, 520),
    ]:
        cut, step, made = table.cut(most), 0, 0
        while step < table.steps:
            blocks = cut.after(step, table.next_stop(step))
            step, made = step + max(1, blocks * cut.block), made + 1
        assert made <= calls, cut


def test_an_interval_is_covered_by_few_calls():
    assert Timetable(440, 22, 10).cut(1024) == (1, (22,))
    assert Timetable(44_000, 22, 10).cut(1024) == (1, (22,))
    assert Timetable(44_000, 24, 8).cut(1024) == (8, (3, 1))
    assert Timetable(20_000, 20_000, 100).cut(1024) == (100, (10, 1))
    assert Timetable(20_000, 1_000, 50, 500).cut(1024) == (50, (10, 1))
    assert Timetable(10_000, 1_009, 1_009).cut(256) == (1, (256, 241, 151))
    assert Timetable(50, 22, 10).cut(1024) == (1, (22, 6))
    assert Timetable(40_000, 40_000, 1_000).cut(512) == (250, (2, 1))
    assert Timetable(44_000, 22, 22).cut(1024) == (11, (2, 1))
    assert Timetable(46_000, 23, 23).cut(1024) == (1, (23,))
    assert Timetable(50, 22, 10).cut(1) == (1, ())


def test_a_resumed_run_makes_the_same_calls():
    table = Timetable(1_000, 70, 10, 45)
    cut, calls, step = table.cut(64), {}, 0
    while step < table.steps:
        calls[step] = cut.after(step, table.next_stop(step))
        step += max(1, calls[step] * cut.block)
    for start in calls:
        assert cut.after(start, table.next_stop(start)) == calls[start]
    assert SHORT > table.steps
