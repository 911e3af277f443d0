"""This release beside the one before the native twin: its code is taken from the repository's history.

Each side is a process of its own: this release with the native twin, with the plain one, and the former release. They
take turns, so that the machine's speed drops out of the ratios.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.processes import bound

from benchmarks.measured import Measured
from benchmarks.processes import compile_package
from benchmarks.timing import figure, ratio
from shmroute.worker.lookup import NATIVE

FORMER_COMMIT = "354cb7384c45c42ba71ed7d6cbc1d3ed6f7c3c30"
"""The last commit with format 2 and without a native twin, of 27 November 2026."""

ROOT = Path(__file__).parents[1]
OURS, PLAIN, FORMER = "shmroute", "shmroute, plain", "the former release"
COMPARED = "x the former release"
NOISE = 1.1
"""Largest ratio that counts as no worse: whole processes are not repeated often enough for less."""


class Side:
    """A process that runs `former_jobs.py` with the code below `root`."""

    def __init__(self, root: Path, pure: bool) -> None:
        path = os.pathsep.join(map(str, (root / "src", root)))
        self._environment = os.environ | {"PYTHONPATH": path, "SHMROUTE_PURE": "1" if pure else ""}
        self._process = subprocess.Popen(
            bound([sys.executable, "-P", str(Path(__file__).with_name("former_jobs.py"))]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env=self._environment,
        )

    def ask(self, job: str, *arguments: object) -> Any:
        """Run a job there, and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([job, *arguments]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def work(self, job: str, *arguments: str) -> Any:
        """Run a job of worker.py in a new process with this side's code, and return its answer."""
        command = [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), job, *arguments]
        done = subprocess.run(bound(command), stdout=subprocess.PIPE, env=self._environment, check=True)
        return json.loads(done.stdout)

    def close(self) -> None:
        """Remove the area and end the process."""
        self.ask("remove")
        self._process.communicate()


@contextmanager
def former_code() -> Iterator[Path | None]:
    """Yield a folder with the former release's code; None where the repository's history is not at hand."""
    with tempfile.TemporaryDirectory(prefix="shmroute-former-") as folder:
        try:
            archive = subprocess.run(
                ["git", "archive", FORMER_COMMIT, "src", "tests", "benchmarks"],
                cwd=ROOT,
                capture_output=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"  the former release cannot be had from the repository's history: {error!r}")
            yield None
            return
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        compile_package(Path(folder))
        yield Path(folder)


@contextmanager
def sides() -> Iterator[dict[str, Side]]:
    """Yield the processes of all sides that are at hand."""
    with ExitStack() as stack:
        opened = {OURS: Side(ROOT, pure=not NATIVE)}
        stack.callback(opened[OURS].close)
        if NATIVE:
            opened[PLAIN] = Side(ROOT, pure=True)
            stack.callback(opened[PLAIN].close)
        code = stack.enter_context(former_code())
        if code is not None:
            opened[FORMER] = Side(code, pure=False)
            stack.callback(opened[FORMER].close)
        yield opened


def in_turns(sides: dict[str, Side], rounds: int, job: str, *arguments: object) -> dict[str, list[float]]:
    """Ask all sides in turn, in another order each time. The median of each answer."""
    dice = random.Random(7)
    order = list(sides)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        dice.shuffle(order)
        for name in order:
            answer = sides[name].ask(job, *arguments)
            taken[name].append(figure(answer).median if isinstance(answer, list) else answer)
    return taken


def beside_former(small: int, large: int, warm: int, rounds: int, builds: int) -> list[Measured]:
    """Publish one changed app at two sizes, build a base, and refresh a worker: both twins and the former release."""
    measured = []
    with sides() as each:
        areas = {}
        for count in (small, large):
            taken: dict[str, list[float]] = {}
            for number in range(builds if count == large else 1):
                for name, side in each.items():
                    areas[name] = f"bench-{os.getpid()}-{number}-{list(each).index(name)}"
                    taken.setdefault(name, []).append(side.ask("build", areas[name], count))
            if count == large:
                what = "first complete build, beside the former release"
                measured += _rows(what, f"{count:,} models", taken, None, 1.0)
            taken = in_turns(each, rounds, "publish", 20)
            what = "publish one changed app (10 models), CPU time"
            measured += _rows(what, f"{count:,} models", taken, 1.0, 1.0)
        taken = {name: [side.work("remember", areas[name], side.ask("names"))["bytes"]] for name, side in each.items()}
        what = "memory of a worker for each remembered route"
        measured += _rows(what, f"{large:,} models, in no order", taken, 0.6, None, unit="bytes")
        for side in each.values():
            side.ask("warm", warm)
        taken = in_turns(each, rounds, "refresh", 20)
        what = f"refresh of a worker with {warm:,} warm rows, CPU time"
        measured += _rows(what, "one app of 10 models changed", taken, 0.3, None)
    return measured


def steps_beside_former(turns: int, *steps: tuple[Any, ...]) -> list[Measured]:
    """Measure steps of `benchmarks.processes` with this release and the former one, and return the rows of both.

    Each step is the name of a function and its arguments.
    """
    measured: list[Measured] = []
    with sides() as each:
        each.pop(PLAIN, None)
        for function, *arguments in steps:
            taken: dict[str, list[list[Measured]]] = {name: [] for name in each}
            for _ in range(turns):
                for name, side in each.items():
                    answer = side.ask("measure", "processes", function, *arguments)
                    taken[name].append(msgspec.convert(answer, list[Measured]))
            measured += taken[OURS][0]
            for number, row in enumerate(taken[OURS][0] if FORMER in each else []):
                if not row.what.startswith("the same"):
                    measured.append(_beside(*([rows[number] for rows in taken[name]] for name in (OURS, FORMER))))
    return measured


def _beside(ours: list[Measured], theirs: list[Measured]) -> Measured:
    """Return a row that compares what a step has measured, in several turns, with the former release."""
    row = ours[0]
    return msgspec.structs.replace(
        row,
        what=f"{row.what}, beside the former release",
        peers={FORMER: theirs[0].ours},
        compared=COMPARED,
        value=ratio([each.value for each in ours], [each.value for each in theirs]),
        target=1 / NOISE if row.at_least else NOISE,
    )


def _rows(
    what: str,
    at: str,
    taken: dict[str, list[float]],
    target: float | None,
    plain_target: float | None,
    unit: str = "s",
) -> list[Measured]:
    """Return a row for each twin. Without the former release, it is compared with the plain twin."""
    base, compared = (FORMER, COMPARED) if FORMER in taken else (OURS, "x itself: the former release is not at hand")
    rows = []
    for name, suffix, limit in ((OURS, "", target), (PLAIN, ", plain twin", plain_target)):
        if name not in taken:
            continue
        others = {peer: figure(values) for peer, values in taken.items() if peer != name}
        rows.append(
            Measured(
                what=f"{what}{suffix}",
                at=at,
                unit=unit,
                ours=figure(taken[name]),
                peers=dict(others),
                compared=compared,
                value=ratio(taken[name], taken[base]),
                target=limit if base == FORMER else None,
            )
        )
    return rows
