"""Tables of any resource, compared with an informer that keeps a dict in each worker."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from tests.processes import bound
from tests.twins import reader_type
from tests.watcher.storm import Storm

from benchmarks.measured import Measured
from benchmarks.processes import WAIT_SECONDS, dumped, workers
from benchmarks.timing import Figure, at_quantile, figure, interleaved, loop_over, quantile, ratio
from shmroute import Reader
from shmroute.resources.key import ObjectKey
from shmroute.resources.table import watch_tables
from shmroute.resources.table_definition import TableDefinition
from shmroute.resources.table_parser import TableObject
from shmroute.rows import Kind, encode, index_value
from shmroute.shm.writing.publisher import Publisher
from shmroute.sources.base import Changed, Deleted, Replaced
from shmroute.supervise.cleanup import remove_area
from shmroute.tables import Index
from shmroute.worker.lookup import NATIVE

HOT = 500
ROWS_A_TEAM = 100
TEAM = 8
"""Number of workers of a pod: with informers in each, the API server gets this many requests."""

INFORMER = "an informer's dict"
PLAIN = "plain twin"
SIX_OBJECTS = "values of six objects"


class Tenant(msgspec.Struct):
    """A row's value."""

    code: str
    quota: int
    team: str
    hosts: list[str]


class Quota(msgspec.Struct):
    """What a worker wants of a row. It takes two objects; the look-ups of a Tenant, which takes six, are measured too:
    the more objects the values have, the further apart they lie in memory, and the slower is a look-up of many."""

    quota: int
    team: str


_decode_json = msgspec.json.Decoder(Tenant).decode


def tenant(number: int, quota: int = 0) -> Tenant:
    return Tenant(name(number), quota, f"team-{number // ROWS_A_TEAM}", [f"{number}.example", f"www.{number}.example"])


def name(number: int) -> str:
    return f"tenant-{number:07}"


class _Informer:
    """A worker's own informer: decoded objects and an index, under a lock."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self.objects: dict[str, Tenant] = {}
        self._by_team: dict[str, set[str]] = defaultdict(set)
        for number in range(count):
            self.apply(msgspec.json.encode(tenant(number)))

    def apply(self, body: bytes) -> None:
        """One event."""
        new = _decode_json(body)
        with self._lock:
            old = self.objects.get(new.code)
            if old is not None:
                self._by_team[old.team].discard(old.code)
            self.objects[new.code] = new
            self._by_team[new.team].add(new.code)

    def look_up(self, key: str) -> Tenant:
        with self._lock:
            return self.objects[key]

    def by(self, team: str) -> tuple[Tenant, ...]:
        with self._lock:
            return tuple(self.objects[key] for key in sorted(self._by_team[team]))


class _Area:
    """A table `tenants` as a watcher publishes it."""

    def __init__(self, count: int) -> None:
        self.area = f"bench-{os.getpid()}-tenants-{count}"
        definition = TableDefinition(resource="tenants.v1.iidp.com", scope="Cluster", index={"team": ".team"})
        kinds = watch_tables({"tenants": definition}, several_namespaces=False)
        self.index = Index(kinds=kinds)
        self.index.apply(Replaced("tenants", tuple(self.made(tenant(number)) for number in range(count))))
        self.publisher = Publisher(self.area)
        rows = {key: row for key, row in self.index.take_changes().items() if row is not None}
        for number in range(HOT):  # for `resolve`, beside it
            route = [name(number), "v1", "app", "v1", "ns", "am", []]
            rows[Kind.MODEL, name(number)] = msgspec.msgpack.encode(route)
        self.publisher.replace(rows)

    @staticmethod
    def made(value: Tenant) -> TableObject:
        entry = index_value("team", value.team)
        assert entry is not None
        return TableObject(ObjectKey("", value.code), "", "1", value.code, encode(value), (entry,))

    def put(self, value: Tenant) -> None:
        self.index.apply(Changed("tenants", self.made(value)))
        self.publisher.publish(self.index.take_changes())

    def close(self) -> None:
        self.publisher.close(remove=True)


def look_ups(count: int, rounds: int) -> list[Measured]:
    """`table[key]`, `by`, a change: its publication, and what a worker does about it."""
    informer = _Informer(count)
    with closing(_Area(count)) as given, Reader(given.area) as reader, reader_type("plain")(given.area) as plain:
        return [
            *_warm(given, reader, plain, informer, count, rounds),
            *_indexed(reader, informer, count, rounds),
            *_changed(given, reader, informer, count, rounds * 10),
        ]


def _warm(given: _Area, reader: Reader, plain: Reader, informer: _Informer, count: int, rounds: int) -> list[Measured]:
    assert given.area
    hot = [name(number) for number in range(HOT)]
    random.Random(1).shuffle(hot)
    loops = {
        "table[key]": _subscripts(reader.table("tenants", Quota)),
        SIX_OBJECTS: _subscripts(reader.table("tenants", Tenant)),
        "resolve": loop_over(reader.resolve),
        f"table[key], {PLAIN}": _subscripts(plain.table("tenants", Quota)),
        f"resolve, {PLAIN}": loop_over(plain.resolve),
        INFORMER: loop_over(informer.look_up),
    }
    for loop in loops.values():
        loop(hot)
    taken = interleaved(loops, partial(list, hot * 40), rounds)
    figures = {who: figure(values) for who, values in taken.items()}
    measured = []
    for suffix, target in (("", 1.1 if NATIVE else 1.5), (f", {PLAIN}", 1.5)):
        peers: dict[str, Figure | None] = {f"resolve{suffix}": figures[f"resolve{suffix}"], INFORMER: figures[INFORMER]}
        if not suffix:
            peers[SIX_OBJECTS] = figures[SIX_OBJECTS]
        measured.append(
            Measured(
                what=f"warm table[key]{suffix}",
                at=f"{count:,} rows, 500 hot keys",
                unit="s",
                ours=figures[f"table[key]{suffix}"],
                peers=peers,
                compared="x resolve",
                value=ratio(taken[f"table[key]{suffix}"], taken[f"resolve{suffix}"]),
                target=target,
            )
        )
    return measured


def _subscripts(table: Any) -> Callable[[Sequence[str]], None]:
    scope: dict[str, Any] = {"table": table}
    exec("def loop(keys):\n    for key in keys:\n        table[key]\n", scope)
    return scope["loop"]  # type: ignore[no-any-return]


def _indexed(reader: Reader, informer: _Informer, count: int, rounds: int) -> list[Measured]:
    table = reader.table("tenants", Tenant)
    teams = [f"team-{number}" for number in range(min(50, count // ROWS_A_TEAM))]
    loops = {
        "by": loop_over(partial(table.by, "team")),
        "keys_by": loop_over(partial(table.keys_by, "team")),
        INFORMER: loop_over(informer.by),
    }
    loops["by"](teams)
    taken = interleaved(loops, partial(list, teams * 4), rounds)
    return [
        Measured(
            what="by(index, value), warm",
            at=f"{count:,} rows, {ROWS_A_TEAM} of them have the value",
            unit="s",
            ours=figure(taken["by"]),
            peers={INFORMER: figure(taken[INFORMER]), "keys_by, not remembered": figure(taken["keys_by"])},
            compared=f"x {INFORMER}",
            value=ratio(taken["by"], taken[INFORMER]),
        )
    ]


def _changed(given: _Area, reader: Reader, informer: _Informer, count: int, changes: int) -> list[Measured]:
    """Measure each change of one row: published, refreshed, and applied by an informer."""
    table = reader.table("tenants", Tenant)
    warm = [name(number) for number in range(min(50_000, count))]
    for key in warm:
        table[key]
    taken: dict[str, list[float]] = {"publish": [], "refresh": [], "informer": []}
    for change in range(changes):
        new = tenant(change % count, change + 1)
        body = msgspec.json.encode(new)
        steps: dict[str, Callable[[], object]] = {
            "publish": partial(given.put, new),
            "refresh": partial(getattr, reader, "generation"),
            "informer": partial(informer.apply, body),
        }
        for step, work in steps.items():
            started = time.perf_counter()
            work()
            taken[step].append(time.perf_counter() - started)
        assert table[new.code].quota == informer.objects[new.code].quota == change + 1
    figures = {step: figure(values) for step, values in taken.items()}
    at = f"{count:,} rows, one changed"
    whats = (
        ("publish", "publish a changed row of a table, by the watcher, once for all workers", 1000.0),
        ("refresh", f"refresh of a worker with {len(warm):,} warm rows of a table", 300.0),
    )
    return [
        Measured(
            what=what,
            at=at,
            unit="s",
            ours=figures[step],
            peers={"an informer, in each worker": figures["informer"]},
            compared="us, median",
            value=figures[step].median * 1e6,
            target=target,
        )
        for step, what, target in whats
    ]


def storm(rows: int, changes: int) -> list[Measured]:
    """1,000 changes a second on one table: how soon a reader in another process sees a change of another table."""
    area = f"bench-{os.getpid()}-storm"
    try:
        with Storm(area, rows) as blowing, workers(1, "storm", area, str(changes)) as (reader,):
            reader.tell()
            blowing.blow(changes)
            late: list[float] = reader.tell()["late"]
    finally:
        remove_area(area)
    return [
        Measured(
            what="a change of one table seen in another process, during 1,000 changes a second of another table",
            at=f"{rows:,} rows",
            unit="s",
            ours=figure(late),
            compared="ms, median",
            value=figure(late).median * 1e3,
            target=20.0,
        ),
        Measured(
            what="the same, p99",
            at=f"{rows:,} rows, at most {blowing.backlog:,} events waited",
            unit="s",
            ours=at_quantile(late, 0.99),
            compared="ms, 99th percentile",
            value=quantile(late, 0.99) * 1e3,
            target=200.0,
        ),
    ]


def index_change(small: int, large: int, changes: int) -> list[Measured]:
    """Measure the addition of a row under an index value that few rows have, and under one that many have."""
    few, many = _grown(small, changes), _grown(large, changes)
    return [
        Measured(
            what="one change under a value of an index",
            at=f"{large:,} rows beside {small:,} under the value",
            unit="s",
            ours=figure(many[0]),
            peers={f"{small:,} rows": figure(few[0])},
            compared=f"x {small:,} rows",
            value=figure(many[0]).median / figure(few[0]).median,
            target=3.0,
        ),
        Measured(
            what="the same, bytes of the log, at most",
            at=f"{large:,} rows under the value",
            unit="bytes",
            ours=figure([max(many[1])]),
            peers={f"{small:,} rows": figure([max(few[1])])},
            compared="KiB",
            value=max(many[1]) / 1024,
            target=4.0,
        ),
    ]


def _grown(rows: int, changes: int) -> tuple[list[float], list[float]]:
    """Return the seconds and log bytes of each row added under a value that `rows` rows have."""
    kind, *_ = watch_tables({"t": TableDefinition(resource="t.v1.x.y", index={"i": ".i"})}, several_namespaces=False)
    entry = index_value("i", "x")
    assert entry is not None

    def made(number: int) -> TableObject:
        return TableObject(ObjectKey("", f"o{number}"), "", "1", f"key-{number:08}", encode({"v": 0}), (entry,))

    index = Index(kinds=[kind])
    index.apply(Replaced("t", tuple(made(number) for number in range(rows))))
    taken, written = [], []
    publisher = Publisher(f"bench-{os.getpid()}-index-{rows}")
    try:
        publisher.replace({key: row for key, row in index.take_changes().items() if row is not None})
        for number in range(rows, rows + changes):
            before, started = publisher.sizes.log_bytes, time.perf_counter()
            index.apply(Changed("t", made(number)))
            publisher.publish(index.take_changes())
            taken.append(time.perf_counter() - started)
            written.append(max(0.0, float(publisher.sizes.log_bytes - before)))  # less: a new base has begun
            index.apply(Deleted("t", made(number).key))
            publisher.publish(index.take_changes())
    finally:
        publisher.close(remove=True)
    return taken, written


def memory(count: int, processes: int) -> list[Measured]:
    """Measure the private memory of workers that looked up a tenth of the rows, or all; compared with a dict of
    all rows in each."""
    with closing(_Area(count)) as given:
        names = [name(number) for number in range(count)]
        ours = {}
        for share in (10, 1):
            with dumped(names[: count // share]) as file, workers(processes, "table", given.area, file) as team:
                ours[share] = float(sum(worker.tell()["bytes"] for worker in team))
    bodies = {name(number): msgspec.msgpack.encode(tenant(number)) for number in range(count)}
    with dumped(bodies) as file, workers(processes, "objects", file) as team:
        theirs = float(sum(worker.tell()["bytes"] for worker in team))
    return [
        Measured(
            what=f"private memory of {processes} workers that looked up {looked_up} rows",
            at=f"{count:,} rows",
            unit="bytes",
            ours=figure([ours[share]]),
            peers={"a dict of msgspec objects in each": figure([theirs])},
            compared="x a dict in each",
            value=ours[share] / theirs,
        )
        for share, looked_up in ((10, "a tenth of the"), (1, "all"))
    ]


def watcher(tables: int, objects: int, changes: int) -> list[Measured]:
    """Measure a real watcher of several tables beside as many informers of the official client in one Python
    process."""
    from tests.apiserver import ApiServer

    found = {}
    with tempfile.TemporaryDirectory() as folder, ApiServer() as api:
        for number in range(tables):
            api.install(_definition(number))
            api.preload(_object(number, each, 0) for each in range(objects))
        kubeconfig = api.kubeconfig(Path(folder) / "kubeconfig")

        def change() -> None:
            for number in range(changes):
                api.put(_object(number % tables, number // tables % objects, number + 1))

        def measured(work: Callable[[], Any]) -> dict[str, float]:
            before = time.process_time()  # of this process, which is the server
            done: dict[str, float] = work()
            return {**done, "server": time.process_time() - before}

        area = f"bench-{os.getpid()}-tables"
        file = Path(folder) / "tables.yaml"
        entries = (f"  t{n}: {{resource: t{n}s.v1.example.com, scope: Cluster, value: .spec}}\n" for n in range(tables))
        file.write_text("tables:\n" + "".join(entries))
        command = [sys.executable, "-m", "shmroute", "watch", "--kubeconfig", str(kubeconfig), "--no-endpoints"]
        arguments = ["-n", "default", "--tables", str(file), "--area", area, "--log-level", "error"]
        process: subprocess.Popen[bytes] | None = None

        def start() -> dict[str, float]:
            nonlocal process
            process = subprocess.Popen(bound([*command, *arguments]))
            reader.wait_ready(WAIT_SECONDS)
            for number in range(tables):
                reader.table(f"t{number}").wait_ready(WAIT_SECONDS)
            return _used(process.pid)

        def follow() -> dict[str, float]:
            assert process is not None
            change()
            last = changes - 1
            key = f"o{last // tables % objects}"
            end = time.monotonic() + WAIT_SECONDS
            while reader.table(f"t{last % tables}")[key]["stamp"] != changes and time.monotonic() < end:
                time.sleep(0.01)
            return _used(process.pid)

        try:
            with Reader(area) as reader:
                found["watcher"] = measured(start), measured(follow)
        finally:
            if process is not None:
                process.terminate()
                process.wait(WAIT_SECONDS)
            remove_area(area)
        with workers(1, "informers", str(kubeconfig), str(tables), str(objects), str(changes)) as (team,):
            began = measured(team.tell)
            threading.Thread(target=change, daemon=True).start()
            found["informers"] = began, measured(team.tell)
    (listed, changed), (listed_by_informers, changed_by_informers) = found["watcher"], found["informers"]
    one, team_of = f"{tables} informers in one Python process", f"{tables} informers in each of {TEAM} workers"
    rows = (
        ("memory of the watcher", "bytes", listed["rss"], one, listed_by_informers["rss"]),
        ("CPU of the watcher until all is listed", "s", listed["cpu"], one, listed_by_informers["cpu"]),
        (
            f"CPU of the watcher for {changes:,} changes",
            "s",
            changed["cpu"] - listed["cpu"],
            one,
            changed_by_informers["cpu"] - listed_by_informers["cpu"],
        ),
        (
            "CPU of the API server until all is listed",
            "s",
            listed["server"],
            team_of,
            TEAM * listed_by_informers["server"],
        ),
        (
            f"CPU of the API server for {changes:,} changes",
            "s",
            changed["server"],
            team_of,
            TEAM * changed_by_informers["server"],
        ),
    )
    return [
        Measured(
            what=what,
            at=f"{tables} tables of {objects:,} objects",
            unit=unit,
            ours=figure([ours]),
            peers={who: figure([theirs])},
            compared=f"x {who}",
            value=ours / max(theirs, 1e-9),
        )
        for what, unit, ours, who, theirs in rows
    ]


def _used(pid: int) -> dict[str, float]:
    """Return the processor seconds and resident bytes of a process, shared memory left out of the bytes."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    anonymous = next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
    return {"cpu": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), "rss": float(anonymous)}


def _definition(number: int) -> dict[str, Any]:
    plural = f"t{number}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Cluster",
            "names": {"plural": plural, "singular": f"t{number}", "kind": f"T{number}", "listKind": f"T{number}List"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                }
            ],
        },
    }


def _object(table: int, number: int, stamp: int) -> dict[str, Any]:
    spec = {"code": f"code-{number}", "stamp": stamp, "region": f"r{number % 7}", "hosts": [f"{number}.example"] * 3}
    return {
        "apiVersion": "example.com/v1",
        "kind": f"T{table}",
        "metadata": {"name": f"o{number}", "labels": {"app": "bench"}},
        "spec": spec,
    }
