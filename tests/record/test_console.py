"""Tables and progress lines, on a terminal and elsewhere."""

import io

from runner.record.console import LiveLine, console, print_table


def printed(rows, **options):
    stream = io.StringIO()
    print_table(["name", "n"], rows, console(stream), **options)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_table_has_columns_gaps_and_a_title():
    rows = [["[b]", "1"], [], ["c", "10"]]
    assert printed(rows, title="t", right=slice(1, None)) == [
        "", "t", "name   n", "[b]    1", "", "c     10",
    ]  # fmt: skip


def test_what_does_not_fit_is_counted_and_nothing_is_folded():
    assert printed([["a" * 500, "1"], ["b", "2"], ["c", "3"]], most=1) == [
        "name" + " " * 498 + "n", "a" * 500 + "  1", "... and 2 more",
    ]  # fmt: skip


def test_no_rows_are_no_table():
    assert printed([], title="t") == []


def test_plain_lines_come_at_each_twentieth_and_when_asked_for():
    line = LiveLine(io.StringIO())
    assert [i for i in range(101) if line._is_due(i / 100, always=False)] == [
        *range(0, 101, 5)
    ]
    assert line._is_due(0.5, always=True)


def test_plain_lines_keep_their_distance_in_time():
    line = LiveLine(io.StringIO(), quiet_seconds=60.0)
    assert line._is_due(0.0, always=True)
    assert not line._is_due(1.0, always=True)
