import errno
import json
import math
from html.parser import HTMLParser

import pytest

from helpers.made_up_runs import run, sweep
from runner.compare import report
from runner.compare.analysis import analyse
from runner.compare.figures import figures
from runner.compare.load import tables
from runner.compare.report import PAGE

NASTY = "<script>alert('x')</script>&\"{{css}}"


class Page(HTMLParser):
    """Tags with their attributes, the text, and the JSON of the figures."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.text, self.scripts, self._inside = [], "", [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data


def html(runs, drawn=()) -> str:
    analysis = analyse(runs, "optimizer", "validation/loss")
    return report.page(
        runs, analysis, drawn or [*figures(runs, analysis)], "/* Vega */"
    )


def parsed(runs) -> Page:
    return Page(html(runs))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def page(out):
    runs = sweep(rates=(0.001, 0.01))
    report.write_report(runs, analyse(runs, "optimizer", "validation/loss"), out)
    return Page((out / PAGE).read_text(encoding="utf-8"))


def test_the_page_and_its_figures_are_all_that_is_left(out, page):
    names = {path.name for path in out.iterdir()}
    assert PAGE in names and not [n for n in names if n.startswith(".")]
    specs = json.loads(page.scripts[0])["figures"]
    assert {f"{name}.png" for name in specs} | {PAGE} == names
    assert (out / PAGE).stat().st_size < 1_200_000


def test_headline_verdict_and_numbers_are_in_the_page(page):
    assert "adam is better than sgd" in page.text
    assert "Controlled comparison" in page.text
    assert "adam - sgd" in page.text and "adam is better" in page.text
    for number in ("1.01", "2.01", "-1"):  # the means, and their difference
        assert number in page.text
    assert "extend optimizer.learning_rate" in page.text  # 0.01 is the largest
    assert "/runs/sgd-constant-0.001-2" in page.text


def test_nothing_is_fetched(page):
    policy = [a["content"] for tag, a in page.tags if "http-equiv" in a]
    assert policy[0].startswith("default-src 'none';")
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe")
        assert not {"src", "href"} & attributes.keys()
    specs = json.loads(page.scripts[0])["figures"]
    for spec in specs.values():
        assert '"url"' not in json.dumps(spec)


def test_a_page_is_semantic(page):
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == tags.count("main") == 1
    headings = {a["id"] for tag, a in page.tags if tag == "h2" and "id" in a}
    labels = {a["aria-labelledby"] for tag, a in page.tags if tag == "section"}
    assert labels == headings
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a.get("scope") for tag, a in page.tags if tag == "th"} == {"col", "row"}


def test_text_of_runs_stays_text():
    named = [
        run(f"r{place}/{NASTY}", place, schedule=NASTY, optimizer=optimizer)
        for optimizer in ("adam", NASTY)
        for place in range(2)
    ]
    page = parsed(tables(named))
    assert [t for t, _ in page.tags if t == "script"] == ["script"] * 3
    assert NASTY in page.text
    specs = json.loads(page.scripts[0])["figures"]
    assert NASTY in json.dumps(specs).encode().decode("unicode_escape")


def test_a_confounded_comparison_says_so_first():
    records = [
        run(f"{o}{seed}", seed, optimizer=o, schedule=s)
        for o, s in (("adam", "cosine"), ("sgd", "constant"))
        for seed in range(2)
    ]
    page = html(tables(records))
    first = page[page.index("<main>") : page.index("</section>")]
    assert 'role="alert"' in first and "Confounded" in first
    assert "<code>schedule</code>" in first
    assert "adam: cosine" in first and "sgd: constant" in first


def test_what_can_not_be_told_apart_is_called_so():
    finals = {"adam": (1.0, 2.0, 1.5), "sgd": (1.4, 1.3, 1.9)}
    records = [
        run(f"{name}{seed}", seed, final=final, optimizer=name)
        for name, values in finals.items()
        for seed, final in enumerate(values)
    ]
    page = html(tables(records))
    assert '<td class="note" data-label="verdict">not separable</td>' in page
    assert "adam is better" not in page and "sgd is better" not in page
    assert "31 more seeds would show a difference of half a standard" in page
    assert "More seeds: how many more would show a difference of half a" in page


def test_a_column_that_is_left_out_is_not_explained(page):
    assert "adam is better" in page.text and "ore seeds" not in page.text


def test_one_run_alone_has_a_page():
    page = parsed(tables([run("only")]))
    assert "Nothing to compare" in page.text
    assert "Pair by pair" not in page.text and "Confounded" not in page.text


def test_a_failed_write_keeps_the_old_page_and_leaves_nothing(tmp_path, monkeypatch):
    runs = sweep(seeds=1)
    (tmp_path / PAGE).write_text("old")

    def full(source, target):
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr("runner.record.files.os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        report.write_report(
            runs, analyse(runs, "optimizer", "validation/loss"), tmp_path
        )
    assert (tmp_path / PAGE).read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == [PAGE]


def test_a_table_aligns_numbers_and_drops_what_nothing_says():
    page = html(sweep())
    assert (
        '<td class="n" data-label="mean">1.01</td>' in page
        and '<th scope="col" class="n">mean' in page
    )
    assert ">failed<" not in page  # none did
    dead = run("dead", 1, final=math.nan, status="refused", optimizer="sgd")
    page = html(tables([run("a"), run("b", optimizer="sgd"), run("c", 1), dead]))
    assert ">failed<" in page and '<td class="worse" data-label="failed">1</td>' in page
