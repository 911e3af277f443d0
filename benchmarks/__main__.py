"""`python -m benchmarks [--quick]`: measure, show progress, print the table, write the results."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.measured import Measured, Results
from benchmarks.steps import measure, steps


def main() -> int:
    """Parse the options, measure, report. Ends with 0 whether or not targets are met: figures decide nothing here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller and shorter; does not write into README")
    parser.add_argument("--only", default="", help="only steps whose name holds this text; writes nothing")
    parser.add_argument("--output", type=Path, default=report.FOLDER, help="folder of the results")
    options = parser.parse_args()
    console = Console()
    rows: list[Measured] = []
    chosen = [name for name in steps(options.quick) if options.only in name]
    began = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
        for number, name in enumerate(chosen, 1):
            console.print(f"[{number}/{len(chosen)}] {time.perf_counter() - began:5.0f} s  {name}", highlight=False)
            rows += fresh.submit(measure, name, options.quick).result()
    results = Results(report.machine(), report.versions(), options.quick, rows)
    show(console, results)
    if not options.only:
        folder = options.output / "quick" if options.quick and options.output == report.FOLDER else options.output
        full = options.output == report.FOLDER and not options.quick
        report.write(results, folder, report.ROOT if full else None)
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
