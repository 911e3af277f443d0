"""The benchmark suite runs completely at a tiny size and writes complete files."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest
from benchmarks.measured import Measured, Results
from benchmarks.timing import Figure, quantile, ratio

from benchmarks import crafted, former, lookups, processes, publishing, report, tables

pytest.importorskip("lmdb", reason="the benchmarks' competitors are installed by `make bench`")


def rows() -> list[Measured]:
    return [
        *lookups.first_touch(1_000, 2),
        *lookups.parts_of_a_route(2),
        *crafted.crafted_names(500, 2),
        *publishing.endpoint_flip(5),
        *publishing.publishing(500, 1_000, 5),
        *publishing.shared_memory(1_000),
        *former.beside_former(100, 200, 100, 2, 1),
        *former.steps_beside_former(1, ("starting", 1_000, 1), ("propagation", 1_000, 2, 5)),
        *processes.memory_and_attach(1_000, 1),
        *tables.look_ups(500, 2),
        *tables.storm(100, 5),
        *tables.index_change(10, 200, 5),
        *tables.memory(500, 1),
        *tables.watcher(2, 20, 10),
    ]


def test_a_tiny_run_measures_every_side_and_writes_whole_files(tmp_path: Path) -> None:
    readme, table = tmp_path / "README.md", tmp_path / "docs" / "benchmarks.md"
    table.parent.mkdir()
    for page in (readme, table):
        page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    results = Results(report.machine(), report.versions(), True, rows())
    other = Results(report.machine(), report.versions() | {"Python": "3.99.1"}, False, results.rows)
    report.write(other, tmp_path / "python3.99", None)
    report.write(results, tmp_path, tmp_path)
    assert "Python 3.99.1, run apart" in table.read_text()
    again = msgspec.json.decode((tmp_path / "latest.json").read_bytes(), type=Results)
    assert [row.what for row in again.rows] == [row.what for row in results.rows]
    assert all(row.ours.median >= 0 for row in again.rows)
    ET.parse(tmp_path / "lookups.svg")
    for page in (readme, table):
        text = page.read_text()
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "old" not in text
    assert all(row.what in table.read_text() for row in results.rows)


def test_ratios_are_taken_pair_by_pair() -> None:
    assert ratio([2.0, 20.0, 6.0], [1.0, 10.0, 2.0]) == 2.0
    assert quantile(list(range(100)), 0.99) == 99


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [(12e-9, "s", "12 ns"), (3.5e-4, "s", "350 us"), (2.0, "s", "2 s"), (2**21, "bytes", "2.0 MiB")],
)
def test_benchmark_figures_are_shown_in_a_readable_unit(value: float, unit: str, shown: str) -> None:
    assert report.text(value, unit) == shown


def test_a_competitor_that_cannot_do_a_task_is_marked() -> None:
    assert report.figure_text(None, "s") == "cannot"
    assert report.figure_text(Figure(1e-6, 1e-6, 2e-6, 3), "s") == "1 us (1 us to 2 us)"
