"""A segment's file in its writer: the memory it uses, and its errors without memory."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from shmroute.errors import NoAccess, OutOfSharedMemory
from shmroute.shm import posix
from shmroute.shm.names import path_of, segment_name
from shmroute.shm.writing.publisher import Publisher
from shmroute.shm.writing.segment_memory import WritableSegment
from tests.forks import Forks, Pipe
from tests.shm.ground import limit
from tests.shm.tables import current_segment


def test_memory_use_grows_with_writes_not_with_the_file_size(area: str) -> None:
    name = segment_name(area, 1)
    segment = WritableSegment.create(name, 1 << 30, posix.Ownership())
    assert posix.taken_bytes(segment.name) == 0
    segment.ensure(5000, exactly=True)
    assert posix.taken_bytes(segment.name) == 8192
    segment.ensure(5000)
    assert posix.taken_bytes(segment.name) == 8192
    segment.ensure(5001)
    assert posix.taken_bytes(segment.name) == align_to_page(5001 + segment.RESERVE_STEP_BYTES)
    segment.close()


@pytest.mark.fault(27)
def test_only_needed_pages_are_reserved_without_room_for_a_step(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    room, reserve = 8192, posix.reserve

    def limited(descriptor: int, name: str, start: int, length: int) -> None:
        if start + length > room:
            raise posix.no_room(name, length)
        reserve(descriptor, name, start, length)

    monkeypatch.setattr(posix, "reserve", limited)
    segment = WritableSegment.create(segment_name(area, 1), 1 << 20, posix.Ownership())
    segment.ensure(room)
    assert posix.taken_bytes(segment.name) == room
    with pytest.raises(OutOfSharedMemory):
        segment.ensure(room + 1)
    assert posix.taken_bytes(segment.name) == room
    segment.close()


def test_error_without_room_gives_needed_and_free_bytes(area: str) -> None:
    name = segment_name(area, 1)
    segment = WritableSegment.create(name, 1 << 46, posix.Ownership())
    with pytest.raises(OutOfSharedMemory) as caught:
        segment.ensure(1 << 45, exactly=True)
    assert caught.value.needed_bytes == 1 << 45
    assert 0 < caught.value.free_bytes < 1 << 45
    assert str(1 << 45) in str(caught.value)
    assert name in str(caught.value)
    assert posix.taken_bytes(segment.name) == 0
    segment.close()


def test_a_segment_that_cannot_be_mapped_for_writing_is_not_unlinked(area: str) -> None:
    """The class of the standard library would unlink the last good copy."""

    def work(pipe: Pipe) -> None:
        name = current_segment(area)
        with limit(resource.RLIMIT_AS, 1 << 20), pytest.raises(NoAccess, match="Cannot allocate memory"):
            WritableSegment(name, posix.Ownership())
        assert Path(path_of(name)).exists()

    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        with Forks() as forks:
            forks.start(work).finish()


def align_to_page(size: int) -> int:
    page = resource.getpagesize()
    return -(-size // page) * page
