"""Pieces of semantic HTML. Any text that isn't `Html` is escaped."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import compress
from typing import Any


class Html(str):
    """Text that is already HTML."""


def section(title: str, *parts: str) -> Html:
    """A titled section, or nothing without a body."""
    body = "".join(parts)
    if not body:
        return Html()
    name = title.lower().replace(" ", "-")
    heading = f'<h2 id="{name}">{escape(title)}</h2>'
    return Html(f'<section aria-labelledby="{name}">{heading}{body}</section>')


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Html:
    """A table in a scrollable box; the first column names the row.

    Numbers are aligned to the right; None and NaN are shown as a dash. A column that is
    all None is left out.
    """
    rows = [list(row) for row in rows]
    filled = [any(row[i] is not None for row in rows) for i in range(len(head))]
    head, *rows = [list(compress(row, filled)) for row in [head, *rows]]
    classes = [""] * len(head)
    for index, column in enumerate(zip(*rows, strict=True)):
        if all(isinstance(value, int | float | None) for value in column):
            classes[index] = ' class="n"'
        elif any(len(str(value)) > 60 for value in column):
            classes[index] = ' class="wrap"'
    heads = "".join(
        f'<th scope="col"{css}>{escape(name)}</th>'
        for name, css in zip(head, classes, strict=True)
    )
    body = []
    for first, *others in rows:
        cells = zip(others, classes[1:], strict=True)
        data = "".join(f"<td{css}>{text(value)}</td>" for value, css in cells)
        body.append(f'<tr><th scope="row"{classes[0]}>{text(first)}</th>{data}</tr>')
    return Html(
        '<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(caption)}">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        "</div>"
    )


def text(value: Any) -> Html:
    """`value` for a table: numbers with four digits."""
    if isinstance(value, Html):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Html("&ndash;")
    return Html(f"{value:.4g}" if isinstance(value, float) else escape(str(value)))


def note(text: str) -> Html:
    """A remark that explains what follows."""
    return Html(f'<p class="note">{escape(text)}</p>')


def bullets(items: Iterable[Any]) -> Html:
    """A list of `items`."""
    return Html(f"<ul>{''.join(f'<li>{text(item)}</li>' for item in items)}</ul>")


def details(summary: str, body: Html) -> Html:
    """`body` folded away under `summary`."""
    return Html(f"<details><summary>{escape(summary)}</summary>{body}</details>")
