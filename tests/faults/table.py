"""Lists the tests of each row of docs/failures.md: they carry `@pytest.mark.fault(ROW)`.

As a pytest plugin (`-p tests.faults.table`), with `--fault-table FILE`, it writes a page that lists them; `make faults`
does so.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

__all__ = ["BY_CHAOS", "marked_rows", "page"]

BY_CHAOS: Final = 36
"""The row that `make chaos` tests."""

_TESTS: Final = Path(__file__).parents[1]


def marked_rows() -> set[int]:
    """Return the rows for which some test carries a marker."""
    source = "".join(path.read_text() for path in _TESTS.rglob("test_*.py"))
    return {int(number) for number in re.findall(r"^ *@pytest\.mark\.fault\((\d+)\)$", source, re.MULTILINE)}


def page(tests: Mapping[int, Sequence[str]]) -> str:
    """Return a page of Markdown that lists the tests of each row."""
    lines = [
        "# Tests for each fault",
        "",
        "The tests that carry `@pytest.mark.fault(ROW)`, by row of docs/failures.md. Written by `make faults`.",
        "",
        "| # | tests |",
        "|---|---|",
    ]
    lines += [f"| {row} | {'<br>'.join(f'`{name}`' for name in tests[row])} |" for row in sorted(tests)]
    return "\n".join(lines) + "\n"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--fault-table FILE`."""
    parser.addoption("--fault-table", type=Path, help="write the tests of each row of docs/failures.md to this file")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the page, if the option was given."""
    path: Path | None = session.config.getoption("--fault-table")
    if path is None:
        return
    tests: dict[int, list[str]] = defaultdict(list)
    for item in session.items:
        name = item.nodeid.partition("[")[0]
        for mark in item.iter_markers("fault"):
            if name not in tests[mark.args[0]]:
                tests[mark.args[0]].append(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(tests))
