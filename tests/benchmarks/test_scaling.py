"""The simulation behind docs/scaling.md counts what the server really does."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import msgspec

from benchmarks import scaling


def test_each_client_costs_one_watch_and_one_list_after_a_restart() -> None:
    one, three = (scaling.simulate(clients, appmodels=4, changes=3) for clients in (1, 3))
    assert (one.watches, one.start_lists, one.storm_lists) == (1, 1, 1)
    assert (three.watches, three.start_lists, three.storm_lists) == (3, 3, 3)
    assert round(three.change_bytes / one.change_bytes, 1) == 3.0


def test_figures_plot_and_table_are_written_where_the_page_has_its_markers(tmp_path: Path) -> None:
    counts = {pods * factor for pods in scaling.PODS for factor in (1, scaling.WORKERS)}
    points = {count: scaling.Point(count, count, count, count, count * 1.0, count, count) for count in counts}
    page = tmp_path / "scaling.md"
    page.write_text(f"before\n{scaling.BEGIN}\nold\n{scaling.END}\nbehind\n")
    scaling.write(points, tmp_path)
    assert page.read_text().startswith(f"before\n{scaling.BEGIN}\n| pods |")
    assert page.read_text().endswith(f"\n{scaling.END}\nbehind\n")
    assert "| 8 | shmroute | 8 |" in page.read_text()
    assert "old" not in page.read_text()
    assert ElementTree.fromstring((tmp_path / "scaling.svg").read_text()).tag.endswith("svg")
    assert len(msgspec.json.decode((tmp_path / "scaling.json").read_bytes())["points"]) == len(counts)


def test_the_page_shows_the_figures_that_are_kept_with_it() -> None:
    kept = msgspec.json.decode((scaling.DOCS / "scaling.json").read_bytes())
    points = {point["clients"]: msgspec.convert(point, scaling.Point) for point in kept["points"]}
    assert scaling.table(points) in (scaling.DOCS / "scaling.md").read_text()
    assert scaling.plot(points) == (scaling.DOCS / "scaling.svg").read_text()
