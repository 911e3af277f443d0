"""The commands and snippets of a Markdown page, as one shell script.

Blocks of language `sh` and `python` are taken in order; a block behind a comment `<!-- not run: why -->` is left out.
All of a page runs in one folder and one shell, as a reader would who follows it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(
    r"(?P<skip><!-- not run: (?P<why>[^>]+) -->\n)?^```(?P<language>sh|python)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One fenced block; `why` says why it is not run, "" if it is."""

    language: str
    text: str
    why: str


def blocks(page: Path) -> list[Block]:
    """Return the page's blocks, in order."""
    return [Block(found["language"], found["text"], found["why"] or "") for found in _BLOCK.finditer(page.read_text())]


def script(page: Path) -> str:
    """Return a bash script of all snippets to run; it ends its background processes."""
    lines = ["set -euo pipefail", "trap 'jobs -p | xargs -r kill; wait' EXIT"]
    for number, block in enumerate(blocks(page)):
        if block.why:
            continue
        lines.append(f"echo '--- block {number}' >&2")
        lines.append(f"python - <<'PYTHON'\n{block.text}PYTHON" if block.language == "python" else block.text)
    return "\n".join(lines) + "\n"


def pages() -> list[Path]:
    """Return README and every page of docs/ that has a snippet to run."""
    return [
        page
        for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        if any(not block.why for block in blocks(page))
    ]
