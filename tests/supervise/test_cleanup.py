"""An area's memory is removed only if no watcher writes it or stands by for it."""

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


def test_memory_of_an_area_without_a_writer_is_removed(area: str) -> None:
    publish(area).close()
    remove_area(area)
    assert memory_of(area) == []


def test_memory_of_an_area_with_a_writer_is_kept(area: str) -> None:
    with publish(area) as publisher:
        remove_area(area)
        assert len(memory_of(area)) == 4
        assert publisher.get(Kind.MODEL, "model") == b"row"


def test_memory_of_an_area_with_a_standby_watcher_is_kept(area: str) -> None:
    publish(area).close()
    stand_by(area, time.monotonic_ns())
    remove_area(area)
    assert len(memory_of(area)) == 4


def test_a_standby_that_has_ended_does_not_keep_the_memory(area: str) -> None:
    publish(area).close()
    stand_by(area, time.monotonic_ns() - int(AWAITED_SECONDS * 1e9) - 1)
    remove_area(area)
    assert memory_of(area) == []


def test_a_standby_that_took_over_does_not_keep_the_memory(area: str) -> None:
    publish(area).close()
    stand_by(area, time.monotonic_ns())
    publish(area).close()
    remove_area(area)
    assert memory_of(area) == []


def test_standby_for_a_missing_area_leaves_no_memory(area: str) -> None:
    stand_by(area, time.monotonic_ns())
    assert memory_of(area) == []
