"""`python -m benchmarks.fleet`: what fleets of watchers cost an API server, by simulation.

Watchers start, an API server restarts, the network splits for a third of them, and all are rolled out anew. Writes
docs/scaling.json, docs/scaling.svg and the table in docs/scaling.md; takes some two minutes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.fleet import report

PODS_A_NODE = 20

PODS = (10, 100, 1_000, 10_000)


def main() -> None:
    """Simulate each size of fleet, then write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--output", type=Path, default=report.DOCS, help="folder with the page scaling.md")
    parser.add_argument("--pods", type=int, nargs="+", default=list(PODS))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    runs = []
    for per, share in (("pod", 1), ("node", PODS_A_NODE)):
        for pods in options.pods:
            if pods < 10 * share:
                continue
            began = time.perf_counter()
            runs.append(report.run(per, pods // share, options.seed))
            seconds = time.perf_counter() - began
            print(
                f"{pods} pods, one watcher a {per}: {seconds:.1f} s {runs[-1].requests_a_second} requests/s", flush=True
            )
    report.write(runs, options.output)


if __name__ == "__main__":
    main()
