"""The page of failures has a row for each fault, tests that carry its number, and cells that fit a screen."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT
from tests.faults.table import BY_CHAOS, marked_rows, page

pytest_plugins = ["pytester"]

PAGE = (ROOT / "docs" / "failures.md").read_text()
SHMROUTES = PAGE.partition("## What others do")[0]
ROWS = [int(number) for number in re.findall(r"^\| (\d+) \|", SHMROUTES, re.MULTILINE)]

MAX_CELL = 115
"""Longest cell in characters: a screen shows it in two or three lines."""


def test_every_fault_has_a_row() -> None:
    assert set(ROWS) >= set(range(1, 53))


def test_every_row_has_a_test_and_every_test_a_row() -> None:
    assert marked_rows() | {BY_CHAOS} == set(ROWS)


def test_tables_have_short_cells_in_as_many_columns_as_their_header() -> None:
    for table in re.findall(r"(?:^\|.*\|\n)+", PAGE, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
        assert len({len(row) for row in rows}) == 1, table.splitlines()[0]
        assert [cell for row in rows for cell in row if len(cell) > MAX_CELL] == []


def test_the_generated_page_lists_the_tests_of_each_row() -> None:
    text = page({7: ["tests/a.py::test_x", "tests/a.py::test_y"], 3: ["tests/b.py::test_z"]})
    assert re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE) == [
        ("3", "`tests/b.py::test_z`"),
        ("7", "`tests/a.py::test_x`<br>`tests/a.py::test_y`"),
    ]


def test_the_page_is_written_from_the_tests_that_are_collected(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nmarkers = ["fault(n)"]\n')
    pytester.makeconftest('pytest_plugins = ["tests.faults.table"]')
    pytester.makepyfile(
        test_it="import pytest\n@pytest.mark.fault(7)\n@pytest.mark.parametrize('n', [1, 2])\ndef test_x(n): pass"
    )
    result = pytester.runpytest_subprocess(
        "--collect-only", "-q", "-p", "no:cacheprovider", "--fault-table", "out/faults.md"
    )
    assert result.ret == 0
    assert "| 7 | `test_it.py::test_x` |\n" in (pytester.path / "out" / "faults.md").read_text()
