"""The event log of a real watcher, and its texts for people."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest

from shmroute.rows import ConflictRow, InvalidRow, Kind, MetadataRow, MetadataState, RouteRow, encode
from shmroute.shm import layout, posix
from shmroute.shm.events import EventWriter
from shmroute.shm.names import events_name
from shmroute.shm.writing.publisher import Publisher
from shmroute.shm.writing.segment_writer import Planned
from shmroute.sources.base import Changed, Deleted, Replaced, SourceState
from shmroute.watcher import events
from shmroute.watcher.events import MORE_SECONDS, NOTED_ROWS, EventNotes
from tests.watcher.running import appmodel, endpointslice, running, wait_for


def seen(area: str, model: str | None = None, kind: str = "model") -> list[str]:
    return [events.in_words(event) for event in events.read(area, model=model) if event["kind"] == kind]


def test_changes_of_a_model_are_logged_across_watchers(area: str) -> None:
    with running(area, "appmodels", "endpointslices") as it:
        it.source.put(Replaced("appmodels", (appmodel("one"), appmodel("two"))), Replaced("endpointslices", ()))
        it.source.in_step()
        wait_for(lambda: it.watcher.status.models == 2)
        it.source.put(Changed("appmodels", appmodel("one", "one=2")))
        wait_for(lambda: len(seen(area)) == 1)
        it.source.put(Changed("endpointslices", endpointslice("one", "10.0.0.1", "10.0.0.2")))
        wait_for(lambda: seen(area, "one", "endpoints"))
    with running(area, "appmodels", "endpointslices") as it:
        it.source.put(Replaced("appmodels", (appmodel("two"),)), Replaced("endpointslices", ()))
        it.source.in_step()
        wait_for(lambda: len(seen(area)) == 2)
    assert seen(area) == [
        "model one changed: 1 by app one v1 (test/one) -> 2 by app one v1 (test/one)",
        "model one removed: 2 by app one v1 (test/one)",
    ]
    first = "endpoints test/one changed: not known -> 2 of 2 ready (+10.0.0.1:80 +10.0.0.2:80)"
    assert seen(area, "one", "endpoints")[0] == first
    last = events.last_served(area, "one")
    assert last is not None
    assert last["before"] == "2 by app one v1 (test/one)"
    assert events.last_served(area, "two") is None
    watchers = [each.partition(":")[0] for each in seen(area, kind="watcher")]
    assert watchers == ["watcher started", "watcher published", "watcher ended"] * 2


def test_phases_and_problems_of_sources_are_logged_once_each(area: str) -> None:
    with running(area) as it:
        it.source.put(Replaced("appmodels", ()))
        for _ in range(5):
            it.source.in_step()
        for number in range(5):
            it.source.put(SourceState("appmodels", "backing-off", 1, f"connection refused {number}"))
        it.source.in_step()
        wait_for(lambda: len(seen(area, kind="source")) == 3)
    assert seen(area, kind="source") == [
        "source appmodels watching",
        "source appmodels backing-off: connection refused 0",
        "source appmodels watching",
    ]


def test_removed_log_costs_no_generation(area: str) -> None:
    with running(area) as it:
        it.source.put(Replaced("appmodels", (appmodel("one"),)))
        wait_for(lambda: it.watcher.status.models == 1)
        posix.unlink(events_name(area))
        it.source.put(Deleted("appmodels", appmodel("one").key))
        wait_for(lambda: seen(area) == ["model one removed: 1 by app one v1 (test/one)"])


class Notes:
    """`EventNotes` without former rows, with clocks that the test moves."""

    def __init__(self, area: str) -> None:
        self.area = area
        self.seconds = 1000.0
        writer = EventWriter(area, posix.Ownership(), lambda: 1)
        self.notes = EventNotes(writer, lambda _kind, _key: None, {16: "tenants"}, lambda: int(self.seconds * 1e9))

    def note(self, *changes: tuple[int, str, bytes | None]) -> None:
        self.notes.note([Planned(kind, key.encode(), value, 0, 0, 0, False) for kind, key, value in changes])

    def publish(self, changes: Sequence[tuple[int, str, bytes | None]]) -> list[str]:
        """Log one publication; gives all events."""
        self.note(*changes)
        self.notes.write(1, published=True)
        return [events.in_words(event) for event in events.read(self.area)]


@pytest.fixture
def noted(area: str) -> Iterator[Notes]:
    with Publisher(area):
        yield Notes(area)


ROUTE = encode(RouteRow("m", "1", "app", "v1", "ns", "am"))


def test_event_log_cuts_a_large_publication_to_rows_and_a_count(noted: Notes) -> None:
    lines = noted.publish([(Kind.APP, "app", b""), *((Kind.MODEL, f"m{number}", ROUTE) for number in range(20_000))])
    assert len(lines) == NOTED_ROWS + 1
    assert lines[0] == "model m0 added: 1 by app app v1 (ns/am)"
    assert lines[-1] == f"and {20_000 - NOTED_ROWS:,} more rows"


def test_storm_of_publications_does_not_flood_the_log(noted: Notes) -> None:
    for _ in range(600):  # ten minutes
        noted.note(*((Kind.MODEL, f"m{number}", ROUTE) for number in range(20)))
        noted.notes.write(1, published=True)
        noted.seconds += 1
    found = events.read(noted.area)
    assert len(found) < layout.EVENTS_PLACES, "what was before the storm is still there"
    assert found[0]["name"] == "m0"
    noted.seconds += 2 * MORE_SECONDS
    noted.notes.write(1)
    found = events.read(noted.area)
    counted = sum(int(each["after"].split()[0].replace(",", "")) if each["kind"] == "more" else 1 for each in found)
    assert counted == 600 * 20, "what is left out is counted"


def test_failed_publication_is_not_logged(noted: Notes) -> None:
    noted.note((Kind.MODEL, "lost", ROUTE))
    noted.notes.write(1)
    assert noted.publish([(Kind.MODEL, "kept", ROUTE)]) == ["model kept added: 1 by app app v1 (ns/am)"]


def test_each_kind_of_row_has_its_event_text_and_hides_its_value(noted: Notes) -> None:
    metadata = MetadataRow("app", "1", "1", MetadataState.LOADED, 0.0, b"a secret")
    lines = noted.publish(
        [
            (20, "hidden", b"a row of a table that is not named"),
            (17, "index", b""),
            (16, "acme", b"a secret"),
            (Kind.METADATA, "ns/m", encode(metadata)),
            (Kind.CONFLICT, "ns/m", encode(ConflictRow("m", "ns", "am", ("b", "c"), 2))),
            (Kind.INVALID, "AppModel ns/x", encode(InvalidRow("AppModel", "ns", "x", "no app", last_good=False))),
            (Kind.ENDPOINTS, "ns/am", b"\xc1 another version's"),
        ]
    )
    assert lines == [
        "AppModel ns/x set aside: no app",
        "conflict ns/m began: served by am, also claimed by b, c",
        "metadata ns/m added: loaded 1, 8 bytes of version 1",
        "table tenants/acme added",
    ]


@pytest.mark.parametrize("letter", ["x", "ä", "\U0001f600"])
def test_long_names_are_cut_and_still_found(noted: Notes, letter: str) -> None:
    name = letter * 300
    route = RouteRow(name, "1" * 300, letter * 300, "v" * 300, "ns", "am")
    noted.publish([(Kind.MODEL, name, encode(route))])
    (event,) = events.read(noted.area, model=name)
    assert event["name"].startswith(letter * 5)
    assert event["name"].endswith("…")
    assert events.read(noted.area, model="other") == []
    assert events.read(noted.area, since=time.time() + 60) == []
