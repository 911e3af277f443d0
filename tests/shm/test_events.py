"""The event log: bounded, readable without a lock while it is written, continued by the next writer."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from shmroute.errors import AreaUnreadable
from shmroute.shm import layout, posix
from shmroute.shm.events import EventWriter, LoggedEvent, read_events
from shmroute.shm.names import events_name, path_of
from shmroute.shm.writing.publisher import Publisher


def path(area: str) -> Path:
    return Path(path_of(events_name(area)))


def writer(area: str, area_id: int = 7) -> EventWriter:
    return EventWriter(area, posix.Ownership(), lambda: area_id)


def test_ring_keeps_the_newest_events_and_a_new_writer_continues(area: str) -> None:
    with Publisher(area):
        first = writer(area)
        first.append(5, [b"%d" % number for number in range(1, layout.EVENTS_PLACES + 10)])
        events = read_events(area)
        assert len(events) == layout.EVENTS_PLACES
        assert events[-1] == LoggedEvent(layout.EVENTS_PLACES + 9, 5, b"%d" % (layout.EVENTS_PLACES + 9))
        assert [each.sequence for each in events] == list(range(10, layout.EVENTS_PLACES + 10))
        writer(area).append(6, [b"after"])
        assert read_events(area)[-1] == LoggedEvent(layout.EVENTS_PLACES + 10, 6, b"after")
        assert path(area).stat().st_size == layout.EVENTS_BYTES
        assert path(area).stat().st_mode & 0o777 == 0o600


def test_event_log_of_a_former_area_of_that_name_is_replaced(area: str) -> None:
    with Publisher(area):
        writer(area, 1).append(5, [b"old"])
        writer(area, 2).append(5, [b"new"])
        assert [each.payload for each in read_events(area)] == [b"new"]


@pytest.mark.parametrize("harm", ["removed", "cut short", "zeros"])
def test_damaged_log_is_recreated_by_the_next_event(area: str, harm: str) -> None:
    with Publisher(area):
        it = writer(area)
        it.append(5, [b"before"])
        if harm == "removed":
            path(area).unlink()
            with pytest.raises(FileNotFoundError):
                read_events(area)
        else:
            with path(area).open("r+b") as file:
                file.truncate(100)
                if harm == "zeros":
                    file.truncate(0)
                    file.truncate(layout.EVENTS_BYTES)
            with pytest.raises(AreaUnreadable):
                read_events(area)
        it.append(6, [b"after"])
        assert [each.payload for each in read_events(area)] == [b"after"]


def test_a_damaged_event_is_skipped_and_others_are_read(area: str) -> None:
    with Publisher(area):
        writer(area).append(5, [b"one", b"two", b"three"])
        with path(area).open("r+b") as file:
            file.seek(layout.EVENTS_HEADER_BYTES + 2 * layout.EVENT_BYTES + layout.EVENT_HEADER.size)
            file.write(b"X")
        assert [each.payload for each in read_events(area)] == [b"one", b"three"]


def test_reader_sees_only_whole_events_during_writes(area: str) -> None:
    with Publisher(area):
        it = writer(area)
        it.append(0, [b"begin"])
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                it.append(number, [b"%d " % number * 20])

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(30):
                for each in read_events(area):
                    assert each.payload in (b"begin", b"%d " % each.when_ns * 20)
        finally:
            stop.set()
            thread.join()


def test_recreated_log_is_never_seen_half_written(area: str) -> None:
    with Publisher(area):
        number = iter(range(1, 1_000))
        it = writer(area, 0)
        it._area_id = lambda: next(number)  # so that each event begins a new log
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set() and next(number) < 900:
                it.append(1, [b"x"])

        it.append(1, [b"x"])
        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(200):
                assert {each.payload for each in read_events(area)} <= {b"x"}  # raises for half a log
        finally:
            stop.set()
            thread.join()


def test_removed_area_leaves_no_event_log(area: str) -> None:
    publisher = Publisher(area)
    writer(area).append(5, [b"one"])
    publisher.close(remove=True)
    assert not path(area).exists()
