"""The writer's side: publishing a change, building a base, refreshing a worker, memory of /dev/shm."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.measured import Measured
from benchmarks.table import complete
from benchmarks.timing import at_quantile, figure, quantile
from shmroute import Reader
from shmroute.rows import Kind, RowKey
from shmroute.shm.writing.packing import NATIVE
from shmroute.shm.writing.publisher import Publisher

Changes = dict[RowKey, "bytes | None"]

SHARED_MEMORY_RATIO = 3.6
"""Most bytes of `/dev/shm` for each byte of the table (sum of keys and values), besides 1 MiB."""


@contextmanager
def published(count: int) -> Iterator[tuple[Publisher, dict[RowKey, bytes], list[float], int]]:
    """Yield an area with the rows of `count` models: publisher, rows, seconds of the build, peak bytes of /dev/shm."""
    table = complete(count)
    area = f"bench-{os.getpid()}-{count}"
    publisher = Publisher(area)
    try:
        started = time.perf_counter()
        publisher.replace(table)
        seconds = time.perf_counter() - started
        yield publisher, table, [seconds], _shared_bytes(area)
    finally:
        publisher.close(remove=True)


def shared_memory(count: int) -> list[Measured]:
    """Measure the shared memory at another number of models."""
    with published(count) as (publisher, rows, _, _):
        table_bytes = sum(len(key.encode()) + len(value) for (_, key), value in rows.items())
        _while_rebuilding(publisher, Apps(rows), random.Random(4), count)
        return [_taken("/dev/shm at most, rebuilt at full rate", _peak_bytes(publisher), table_bytes, count)]


def _peak_bytes(publisher: Publisher) -> int:
    """Return the bytes of `/dev/shm` after a rebuild: both segments, and the log that grew meanwhile.

    No file of an area shrinks, so this is the most that there has been.
    """
    return _shared_bytes(publisher.area)


def _taken(what: str, taken_bytes: float, table_bytes: float, models: int) -> Measured:
    """Return the shared memory used beyond 1 MiB, compared with the bytes of the table's keys and values."""
    return Measured(
        what=what,
        at=f"{models:,} models",
        unit="bytes",
        ours=figure([taken_bytes]),
        peers={"the table's keys and values": figure([table_bytes])},
        compared="x the table's bytes, less 1 MiB",
        value=max(0.0, taken_bytes - 2**20) / table_bytes,
        target=SHARED_MEMORY_RATIO,
    )


def _shared_bytes(area: str) -> int:
    return sum(path.stat().st_blocks * 512 for path in Path("/dev/shm").glob(f"shmroute-{area}*"))


class Apps:
    """The rows of each app of a table, to be changed one app at a time."""

    def __init__(self, table: dict[RowKey, bytes]) -> None:
        names = [key for kind, key in table if kind == Kind.APP]
        self._table = table
        self._names = names
        self._stamp = 0

    def change(self, dice: random.Random) -> Changes:
        """Return the changed rows of one app with a new version: those of its ten models and its own."""
        self._stamp += 1
        name = dice.choice(self._names)
        (app,) = msgspec.msgpack.decode(self._table[Kind.APP, name])
        version = f"v{self._stamp}"
        changes: Changes = {(Kind.APP, name): msgspec.msgpack.encode([[app[0], version, *app[2:]]])}
        for model, _ in app[5]:
            route = msgspec.msgpack.decode(self._table[Kind.MODEL, model])
            changes[Kind.MODEL, model] = msgspec.msgpack.encode([*route[:3], version, *route[4:]])
        return changes


def publishing(small: int, large: int, changes: int) -> list[Measured]:
    """Measure the change of one app at two table sizes, the first build, and publishing during a rebuild."""
    dice = random.Random(4)
    measured: list[Measured] = []
    with (
        published(small) as (few, few_rows, _, _),
        published(large) as (many, many_rows, build, taken_bytes),
    ):
        table_bytes = sum(len(key.encode()) + len(value) for (_, key), value in many_rows.items())
        sides = {small: (few, Apps(few_rows)), large: (many, Apps(many_rows))}
        taken: dict[int, list[float]] = {small: [], large: []}
        for _ in range(changes):
            for size, (publisher, apps) in sides.items():
                while publisher.rebuilding:
                    publisher.maintain(1.0)
                change = apps.change(dice)
                started = time.perf_counter()
                publisher.publish(change)
                taken[size].append(time.perf_counter() - started)
        small_figure, large_figure = figure(taken[small]), figure(taken[large])
        measured.append(
            Measured(
                what="first complete build",
                at=f"{large:,} models",
                unit="s",
                ours=figure(build),
                compared="s",
                value=build[0],
                target=2.0 if NATIVE else 5.0,
            )
        )
        measured.append(_taken("/dev/shm after the first build", taken_bytes, table_bytes, large))
        for size, own in ((small, small_figure), (large, large_figure)):
            measured.append(
                Measured(
                    what="publish one changed app (10 models)",
                    at=f"{size:,} models",
                    unit="s",
                    ours=own,
                    compared="ms, median",
                    value=own.median * 1e3,
                    target=1.0,
                )
            )
        measured.append(
            Measured(
                what="publish one changed app, large beside small",
                at=f"{large:,} and {small:,}",
                unit="s",
                ours=large_figure,
                peers={f"at {small:,} models": small_figure},
                compared="x the small table",
                value=large_figure.median / small_figure.median,
                target=2.0,
            )
        )
        measured.append(_while_rebuilding(many, Apps(many_rows), dice, large))
        measured.append(_taken("/dev/shm at most, rebuilt at full rate", _peak_bytes(many), table_bytes, large))
        measured.append(_refreshing(many, Apps(many_rows), many_rows, dice, large))
    return measured


def _while_rebuilding(publisher: Publisher, apps: Apps, dice: random.Random, count: int) -> Measured:
    """Publish until a rebuild begins, and on until it has ended."""
    taken: list[float] = []
    pad = b"x" * 65536
    before = publisher.control.segment
    # Grow the log quickly, by rows of 64 KiB. A small table is rebuilt at once.
    while not publisher.rebuilding and publisher.control.segment == before:
        publisher.publish({(Kind.METADATA, f"bench/{number}"): pad + os.urandom(8) for number in range(16)})
    while publisher.rebuilding or not taken:
        change = apps.change(dice)
        started = time.perf_counter()
        publisher.publish(change)
        taken.append(time.perf_counter() - started)
    return Measured(
        what="publish while a base is rebuilt, p99",
        at=f"{count:,} models",
        unit="s",
        ours=at_quantile(taken, 0.99),
        compared="ms, 99th percentile",
        value=quantile(taken, 0.99) * 1e3,
        target=25.0,
    )


def _refreshing(
    publisher: Publisher, apps: Apps, table: dict[RowKey, bytes], dice: random.Random, count: int
) -> Measured:
    """Measure the move of a worker with 50,000 warm rows to the next generation."""
    warm = dice.sample([key for kind, key in table if kind == Kind.MODEL], min(50_000, count))
    taken = []
    with Reader(publisher.area) as reader:
        for model in warm:
            reader.resolve(model)
        for _ in range(300):
            publisher.publish(apps.change(dice))
            started = time.perf_counter()
            reader.generation  # noqa: B018 - goes to the newest generation
            taken.append(time.perf_counter() - started)
    own = figure(taken)
    return Measured(
        what="refresh of a worker after one app changed",
        at=f"{len(warm):,} warm rows",
        unit="s",
        ours=own,
        compared="ms, median",
        value=own.median * 1e3,
        target=0.3,
    )


def endpoint_flip(changes: int) -> list[Measured]:
    """Measure the change of one endpoint of an app with 10 models, and of one with 10,000."""
    from tests.generate import appmodels, endpointslices

    from shmroute.sources.base import Changed, Replaced
    from shmroute.tables import Index

    taken: dict[int, list[float]] = {10: [], 10_000: []}
    sides = {}
    for size in taken:
        index = Index()
        index.apply(Replaced("appmodels", tuple(appmodels(1, size))))
        (item,) = endpointslices(1, 10, per_slice=10)
        index.apply(Replaced("endpointslices", (item,)))
        publisher = Publisher(f"bench-{os.getpid()}-flip-{size}")
        publisher.replace({key: value for key, value in index.take_changes().items() if value is not None})
        sides[size] = (index, item, publisher)
    try:
        for number in range(changes):
            for size, (index, item, publisher) in sides.items():
                first = msgspec.structs.replace(item.endpoints[0], ready=bool(number % 2))
                flipped = msgspec.structs.replace(
                    item, endpoints=(first, *item.endpoints[1:]), resource_version=str(number + 10)
                )
                started = time.perf_counter()
                index.apply(Changed("endpointslices", flipped))
                publisher.publish(index.take_changes())
                taken[size].append(time.perf_counter() - started)
    finally:
        for _, _, publisher in sides.values():
            publisher.close(remove=True)
    large, small = figure(taken[10_000]), figure(taken[10])
    return [
        Measured(
            what="one endpoint flips, app of 10,000 models beside one of 10",
            at="10 endpoints",
            unit="s",
            ours=large,
            peers={"app of 10 models": small},
            compared="x the small app",
            value=large.median / small.median,
            target=2.0,
        )
    ]
