"""Taking an area's memory away: only when nobody writes it or waits for it."""

from __future__ import annotations

import time

from shmroute.rows import Kind
from shmroute.shm.writing.control import stand_by
from shmroute.shm.writing.publisher import Publisher
from shmroute.supervise.cleanup import AWAITED_SECONDS, remove_area
from tests.supervise.running import memory_of


def publish(area: str) -> Publisher:
    publisher = Publisher(area, now_ns=time.monotonic_ns())
    publisher.replace({(Kind.MODEL, "model"): b"row"})
    return publisher


def test_the_memory_of_an_area_that_nobody_writes_is_removed(area: str) -> None:
    publish(area).close()
    remove_area(area)
    assert memory_of(area) == []


def test_the_memory_of_an_area_that_somebody_writes_is_left(area: str) -> None:
    with publish(area) as publisher:
        remove_area(area)
        assert len(memory_of(area)) == 4
        assert publisher.get(Kind.MODEL, "model") == b"row"


def test_the_memory_of_an_area_that_a_watcher_stands_by_for_is_left(area: str) -> None:
    publish(area).close()
    stand_by(area, time.monotonic_ns())
    remove_area(area)
    assert len(memory_of(area)) == 4


def test_a_watcher_that_stood_by_long_ago_does_not_count(area: str) -> None:
    publish(area).close()
    stand_by(area, time.monotonic_ns() - int(AWAITED_SECONDS * 1e9) - 1)
    remove_area(area)
    assert memory_of(area) == []


def test_whoever_takes_the_area_over_waits_for_it_no_more(area: str) -> None:
    publish(area).close()
    stand_by(area, time.monotonic_ns())
    publish(area).close()
    remove_area(area)
    assert memory_of(area) == []


def test_standing_by_for_an_area_that_is_not_there_does_nothing(area: str) -> None:
    stand_by(area, time.monotonic_ns())
    assert memory_of(area) == []
