"""`python -m benchmarks [--quick]`: measure, show progress, print the table, write the results."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import lookups, processes, publishing, report
from benchmarks.measured import Measured, Results

Step = tuple[str, Callable[[], list[Measured]]]


def steps(quick: bool) -> list[Step]:
    """What is measured, in order. `quick`: smaller tables and fewer rounds, in about a minute."""
    large = 100_000 if quick else 1_000_000
    middle = 20_000 if quick else 100_000
    team = 4 if quick else 8
    return [
        ("warm look-ups", lambda: lookups.warm(middle, 7 if quick else 21)),
        ("first touch", lambda: lookups.first_touch(middle, 9 if quick else 31)),
        ("first touch, large table", lambda: lookups.first_touch(large, 5 if quick else 21)),
        ("picks and metadata", lambda: lookups.parts_of_a_route(9 if quick else 41)),
        ("publishing", lambda: publishing.publishing(10_000, large, 100 if quick else 500)),
        ("endpoint flip", lambda: publishing.endpoint_flip(100 if quick else 1000)),
        ("memory and attach", lambda: processes.memory_and_attach(large, team)),
        ("starting", lambda: processes.starting(middle, 3 if quick else 9)),
        ("two processes, and publishing meanwhile", lambda: processes.scaling(middle, 1 if quick else 5)),
        ("propagation", lambda: processes.propagation(middle, team, 100 if quick else 500)),
    ]


def main() -> int:
    """Parse the options, measure, report. Ends with 0 whether or not targets are met: figures decide nothing here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller and shorter; does not write into README")
    parser.add_argument("--only", default="", help="only steps whose name holds this text; writes nothing")
    parser.add_argument("--output", type=Path, default=report.FOLDER, help="folder of the results")
    options = parser.parse_args()
    console = Console()
    rows: list[Measured] = []
    chosen = [step for step in steps(options.quick) if options.only in step[0]]
    began = time.perf_counter()
    for number, (name, measure) in enumerate(chosen, 1):
        console.print(f"[{number}/{len(chosen)}] {time.perf_counter() - began:5.0f} s  {name}", highlight=False)
        rows += measure()
    results = Results(report.machine(), report.versions(), options.quick, rows)
    show(console, results)
    if not options.only:
        folder = options.output / "quick" if options.quick and options.output == report.FOLDER else options.output
        full = options.output == report.FOLDER and not options.quick
        report.write(results, folder, report.ROOT / "README.md" if full else None)
    return 0


def show(console: Console, results: Results) -> None:
    """Print every row with its target, and the peers beside it."""
    table = Table("what", "at", "shmroute", "compared", "target", "peers", show_lines=True)
    for row in results.rows:
        met = "" if row.met is None else ("met" if row.met else "MISSED")
        sign = ">=" if row.at_least else "<="
        target = f"{sign} {row.target:g} {met}" if row.target is not None else ""
        peers = "\n".join(f"{name}: {report.figure_text(figure, row.unit)}" for name, figure in row.peers.items())
        own = report.figure_text(row.ours, row.unit)
        table.add_row(row.what, row.at, own, f"{row.value:.3g} {row.compared}", target, peers)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
