"""`Snapshot`: routes and tables of one generation, which do not change."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

import shmroute
from shmroute import ModelNotFound, NotReady, Reader, SnapshotExpired, TableNotFound, TableNotReady, TableValueError
from shmroute.rows import Kind, TableRow, encode
from shmroute.worker import default
from tests.routing import RoutesArea, route

NUMBER = 16


class Flag(msgspec.Struct):
    on: bool


@pytest.fixture
def reader(area: str) -> Iterator[Reader]:
    with Reader(area) as made:
        yield made


def put(given: RoutesArea, *, ready: bool = True, **flags: object) -> None:
    """Publish the table `flags` with exactly these rows."""
    rows: dict[tuple[int, str], bytes | None] = {(NUMBER, key): encode(value) for key, value in flags.items()}
    rows[Kind.TABLES, "flags"] = encode(TableRow(NUMBER, "configmaps.v1", ready, len(flags), ("team",)))
    rows[NUMBER + 1, "0:team:sweb"] = encode((1, sorted(flags)))
    given.publisher.publish(rows)


def test_a_snapshot_stays_at_its_generation_over_routes_and_tables(given: RoutesArea, reader: Reader) -> None:
    given.publish(route("m", "old", others=(route("m", "other", namespace="elsewhere"),)))
    given.metadata("m", {"unit": "kWh"}, app="old")
    put(given, a={"on": True}, b={"on": False})
    given.in_step(seconds_ago=2.0)
    with reader.snapshot() as now:
        flags = now.table("flags", Flag)
        assert flags["a"] == Flag(True)
        given.publish(route("m", "new"), route("late"))
        given.metadata("m", {"unit": "MWh"}, app="new")
        put(given, a={"on": False}, c={"on": True})
        assert reader.resolve("m").app == "new"
        assert reader.table("flags", Flag)["a"] == Flag(False)
        found = now.resolve("m")
        assert (found.app, found.metadata) == ("old", {"unit": "kWh"})
        assert now.resolve("m") is found
        assert now.resolve("m", namespace="elsewhere").app == "other"
        assert now.get("late") is None
        assert now.get("late", 7) == 7
        assert set(now.models()) == {"m"}
        with pytest.raises(ModelNotFound):
            now.resolve("late")
        with pytest.raises(TypeError, match="a model's name is a str"):
            now.resolve(7)  # type: ignore[arg-type]
        assert dict(flags) == {"a": Flag(True), "b": Flag(False)}
        assert flags["a"] is flags["a"]
        assert len(flags) == 2
        assert "c" not in flags
        assert flags.by("team", "web") == (Flag(True), Flag(False))
        for absent in ("c", 7):
            with pytest.raises(KeyError):
                flags[absent]  # type: ignore[index]
        assert now.generation < reader.generation
        assert 2.0 <= now.age < 60.0
    for read in (lambda: now.resolve("late"), lambda: len(flags), lambda: now.table("flags"), lambda: now.models()):
        with pytest.raises(SnapshotExpired):
            read()


def test_a_snapshots_route_has_the_current_endpoints(given: RoutesArea, reader: Reader) -> None:
    given.route("m")
    given.endpoints("app", "10.0.0.1:80")
    with reader.snapshot() as now:
        given.endpoints("app", "10.0.0.2:80")
        assert str(now.resolve("m").pick()) == "10.0.0.2:80"


@pytest.mark.usefixtures("small_segments")
def test_a_snapshot_whose_memory_was_reused_raises_expired(given: RoutesArea, reader: Reader) -> None:
    put(given, a={"on": True})
    given.route("m")
    now = reader.snapshot()
    flags = now.table("flags")
    while not now._reader.expired:
        given.route("other", version=str(given.publisher.generation))
    for read in (lambda: now.resolve("m"), lambda: flags["a"], lambda: list(flags), lambda: "a" in flags):
        with pytest.raises(SnapshotExpired, match="Take a new view"):
            read()
    assert reader.snapshot().table("flags")["a"] == {"on": True}


def test_a_snapshot_raises_for_tables_not_ready_or_unfit(given: RoutesArea, reader: Reader) -> None:
    with pytest.raises(NotReady):
        reader.snapshot()
    put(given, ready=False)
    with reader.snapshot() as now:
        assert now.age == float("inf")
        with pytest.raises(TableNotReady):
            now.table("flags")
        with pytest.raises(TableNotFound):
            now.table("others")
        put(given, a={"on": "maybe"})
        with pytest.raises(TableNotReady):
            now.table("flags")
    with pytest.raises(TableValueError, match="'a'"):
        reader.snapshot().table("flags", Flag)["a"]


def test_the_default_readers_snapshot_reads_the_area_of_the_environment(
    given: RoutesArea, area: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given.route("m")
    monkeypatch.setenv("SHMROUTE_AREA", area)
    default.use_area(None)
    try:
        with shmroute.snapshot() as now:
            assert now.resolve("m").app == "app"
            assert repr(now) == f"<shmroute.Snapshot of area {area!r} at generation 1>"
    finally:
        default.use_area(None)
