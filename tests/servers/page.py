"""The files and commands that docs/servers.md shows its readers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "servers.md"

PORT = 8000
"""The port the page uses; a test takes a free one."""

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`(examples/[\w./]+)`")


class Shown(NamedTuple):
    """A file, as the page shows it."""

    path: Path
    text: str


def shown_files() -> list[Shown]:
    """Return every file on the page: the last one named before each block of a language other than the shell's."""
    page = PAGE.read_text()
    return [
        Shown(ROOT / _FILE.findall(page[: block.start()])[-1], block[2])
        for block in _FENCED.finditer(page)
        if block[1] != "bash"
    ]


def commands(heading: str) -> list[str]:
    """Return the commands of the section that has this heading."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [block[2].strip() for block in _FENCED.finditer(section) if block[1] == "bash"]


def command(heading: str, port: int, number: int = 0) -> list[str]:
    """Return the section's command of that number, on another port."""
    return shlex.split(commands(heading)[number].replace(str(PORT), str(port)))
