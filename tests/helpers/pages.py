"""The README and the pages of docs/: their code blocks, their files, their commands."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {"README": (ROOT / "README.md").read_text()} | {
    str(path.relative_to(ROOT / "docs").with_suffix("")): path.read_text()
    for path in sorted((ROOT / "docs").rglob("*.md"))
}
EXAMPLES = {
    str(path.parent.relative_to(ROOT)): path.read_text()
    for path in sorted((ROOT / "examples").glob("*/README.md"))
}
README = PAGES["README"]
# The name of a file whose format has no comments.
SAVED = {"csv": "rents.csv"}


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of each code block."""
    return blocks_of((PAGES | EXAMPLES)[page])


def blocks_of(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """The lines of the page's shell blocks, and those that its output begins with."""
    text = "".join(code for kind, code in blocks(page) if kind == "sh")
    told = re.findall(r"^\$ (.*)$", (PAGES | EXAMPLES)[page], re.MULTILINE)
    return lines(text) + told


def lines(code: str) -> list[str]:
    """The commands of a shell block."""
    found = code.replace("\\\n", " ").splitlines()
    return [line.strip() for line in found if line and line[0] != "#"]


def write_files(page: str, folder: Path) -> None:
    """Write the files that the page shows, as their first lines name them."""
    for kind, text in blocks(page):
        write_file(kind, text, folder)


def write_file(kind: str, text: str, folder: Path) -> bool:
    """Write a block that is a file; returns whether it is one."""
    named = re.match(r"(?:# @package .*\n)?# (\S+/\S+\.\w+)\n", text)
    name = named[1] if named else SAVED.get(kind)
    if name:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return bool(name)


# Each command that starts this program or one beside it, once.
COMMANDS = sorted(
    {
        line
        for page in PAGES
        for line in commands(page)
        if "python" in line and ".venv" not in line
    }
)
