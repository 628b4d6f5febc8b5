"""Executes docs/notebook.ipynb and writes it again, and as docs/notebook.md.

Run it when what the notebook shows has changed. It needs nbclient and ipykernel.

  python scripts/notebook.py
"""

import base64
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOK, PAGE = DOCS / "notebook.ipynb", DOCS / "notebook.md"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PNG = re.compile(r'data:image/png;base64,([^"]*)')


def executed(notebook: Path) -> dict[str, Any]:
    """The notebook as JSON, with the outputs of a run in an empty folder."""
    import nbformat
    from nbclient import NotebookClient

    cells = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(cells, resources=place, coalesce_streams=True).execute()
        text = nbformat.writes(cells).replace(f"{folder}/", "")
    found = json.loads(text)
    for cell in found["cells"]:
        cell["metadata"] = {}  # when it ran
    return found


def lines(cells: list[dict[str, Any]]) -> Iterator[str]:
    """The page; figures are written beside it."""
    yield "<!-- scripts/notebook.py makes this page of notebook.ipynb -->"
    figures = 0
    for cell in cells:
        text = "".join(cell["source"])
        yield f"\n{text}" if cell["cell_type"] == "markdown" else _block("python", text)
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            shown = "".join(output.get("text", data.get("text/plain", "")))
            image = PNG.search("".join(data.get("text/html", "")))
            encoded = image[1] if image else data.get("image/png")
            if "image/png" not in data:
                yield _block("text", COLOUR.sub("", shown))
            if encoded:
                figures += 1
                name = f"notebook_{figures}.png"
                (DOCS / name).write_bytes(base64.b64decode("".join(encoded)))
                yield f"\n![What the cell shows]({name})"


def _block(kind: str, text: str) -> str:
    kept = "\n".join(line.rstrip() for line in text.rstrip().splitlines())
    return f"\n```{kind}\n{kept}\n```"


def main() -> None:
    """Replace the notebook and its page."""
    found = executed(NOTEBOOK)
    NOTEBOOK.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text("\n".join(lines(found["cells"])) + "\n")


if __name__ == "__main__":
    sys.exit(main())
