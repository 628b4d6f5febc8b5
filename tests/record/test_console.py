"""Tables and progress lines, on a terminal and elsewhere."""

import io

from rich.console import Console

from runner.record.console import console, print_table, time_left


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


def on_a_terminal(width, *row):
    stream = io.StringIO()
    header = ["run", "optimizer.learning_rate", "validation/loss"]
    out = Console(file=stream, width=width)
    print_table(header, [row, row], out, named=True)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_name_that_does_not_fit_has_its_own_line():
    assert on_a_terminal(80, "a", "1e-3", "0.5") == [
        "run  optimizer.learning_rate  validation/loss",
        *["a    1e-3                     0.5"] * 2,
    ]
    assert on_a_terminal(40, "a" * 10, "1e-3", "0.5") == [
        "            optimizer.     validation/",
        "run         learning_rate  loss",
        *["aaaaaaaaaa  1e-3           0.5"] * 2,
    ]
    assert on_a_terminal(40, "a" * 30, "1e-3", "0.5") == [
        "  optimizer.     validation/",
        "  learning_rate  loss",
        *["a" * 30, "  1e-3           0.5"] * 2,
    ]
    assert all(len(line) <= 20 for line in on_a_terminal(20, "a", "1e-3", "0.5"))


def test_columns_that_do_not_fit_are_folded_between_words():
    stream = io.StringIO()
    row = ["adam - sgd", "optimizer.learning_rate=0.1", "[-1.268, 0.7375]", "0.1842"]
    out = Console(file=stream, width=48)
    print_table(["pair", "setting", "95 %", "mean"], [row, []], out)
    assert [line.rstrip() for line in stream.getvalue().splitlines()] == [
        "pair        setting        95 %      mean",
        "adam - sgd  optimizer.     [-1.268,  0.1842",
        "            learning_rate  0.7375]",
        "            =0.1",
        "",
    ]


def test_no_rows_are_no_table():
    assert printed([], title="t") == []


def test_less_than_a_second_left_is_none():
    assert [time_left(seconds) for seconds in (0.0, 0.9, 1.0, 3725.5)] == [
        "", "", "0:00:01 left", "1:02:05 left",
    ]  # fmt: skip
