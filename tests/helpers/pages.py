"""The README and the pages of docs/: their code blocks, their files, their commands."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {"README": (ROOT / "README.md").read_text()} | {
    str(path.relative_to(ROOT / "docs").with_suffix("")): path.read_text()
    for path in sorted((ROOT / "docs").rglob("*.md"))
}
README = PAGES["README"]
# The name of a file whose format has no comments.
SAVED = {"csv": "rents.csv"}


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of each code block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """The lines of the page's shell blocks, and those that its output begins with."""
    text = "".join(code for kind, code in blocks(page) if kind == "sh")
    lines = text.replace("\\\n", " ").splitlines()
    told = re.findall(r"^\$ (.*)$", PAGES[page], re.MULTILINE)
    return [line.strip() for line in lines if line and line[0] != "#"] + told


def write_files(page: str, folder: Path) -> None:
    """Write the files that the page shows, as their first lines name them."""
    for kind, text in blocks(page):
        named = re.match(r"# (\S+/\S+\.\w+)\n", text)
        if name := named[1] if named else SAVED.get(kind):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


# Each command that starts this program or one beside it, once.
COMMANDS = sorted(
    {
        line
        for page in PAGES
        for line in commands(page)
        if "python" in line and ".venv" not in line
    }
)
