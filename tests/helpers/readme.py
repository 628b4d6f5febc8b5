"""The README's code blocks and the commands in them."""

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
# Each line of a shell block that starts this program or one beside it.
COMMANDS = [
    line.strip()
    for kind, text in BLOCKS
    for line in text.splitlines()
    if kind == "sh" and "python" in line and ".venv" not in line
] + re.findall(r"^\$ (python -m runner .*)$", README, re.MULTILINE)
