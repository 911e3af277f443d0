"""The order of stores and fences that the protocol asks for: a strongly ordered processor tells nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shmroute.shm import control, memory, reader, writing
from shmroute.shm.control import ControlReader
from shmroute.shm.publisher import Publisher
from shmroute.shm.reader import RowReader
from shmroute.shm.segment import Segment

FENCE = "fence"


class Noted:
    """A view whose stores are noted, once for several of one kind in a row."""

    def __init__(self, view: Any, name: str, log: list[str]) -> None:
        self._view = view
        self._name = name
        self._log = log

    def __setitem__(self, at: Any, value: Any) -> None:
        self._view[at] = value
        note(self._log, self._name)

    def __getitem__(self, at: Any) -> Any:
        return self._view[at]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)


def note(log: list[str], name: str) -> None:
    if log[-1:] != [name]:
        log.append(name)


def noted(function: Callable[..., Any], name: str, log: list[str]) -> Any:
    """The same function, its calls noted."""

    def call(*arguments: Any) -> Any:
        note(log, name)
        return function(*arguments)

    return call


def noting(publisher: Publisher, log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Note from now on what this publisher stores in its segment and its control block."""
    writer: Any = publisher._writer
    block: Any = publisher.control
    monkeypatch.setattr(writer, "_buffer", Noted(writer._buffer, "records", log))
    monkeypatch.setattr(writer, "_words", Noted(writer._words, "word", log))
    monkeypatch.setattr(writer, "_slots", Noted(writer._slots, "slots", log))
    monkeypatch.setattr(block, "_store_head", Noted(block._store_head, "generation", log))
    monkeypatch.setattr(block, "_store", Noted(block._store, "segment", log))
    for module in (writing, control):
        monkeypatch.setattr(module, "fence", lambda: note(log, FENCE))


@pytest.mark.fault(23)
def test_a_publish_stores_records_then_their_batch_then_slots_then_the_hint_then_the_generation(
    area: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        log: list[str] = []
        with monkeypatch.context() as patched:
            noting(publisher, log, patched)
            publisher.publish({(1, "a"): b"2", (1, "b"): b"1"})

        batch = ["records", FENCE, "word", FENCE, "slots", FENCE, "word"]  # the last one is the hint
        assert log == [*batch, FENCE, "generation"]


@pytest.mark.fault(23)
def test_a_segment_is_named_only_when_the_generation_that_leads_there_is_published(
    area: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole table, in a segment of its own: sealed behind the last batch of the present one."""
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        log: list[str] = []
        with monkeypatch.context() as patched:
            noting(publisher, log, patched)
            patched.setattr(memory, "unlink", noted(memory.unlink, "unlink", log))
            publisher._publish_anew([(1, b"a", b"2")])

        began = log.index("records")  # before it: the name is made free for the new segment, which is filled
        seal = ["records", FENCE, "word", FENCE, "word"]
        assert log[began:] == [*seal, FENCE, "generation", FENCE, "segment", "unlink"]
        assert set(log[:began]) == {"unlink", FENCE}


@pytest.mark.fault(23)
def test_a_reader_loads_nothing_of_a_generation_before_a_fence(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(reader, "fence", lambda: note(log, FENCE))
    monkeypatch.setattr(Segment, "batch_at", noted(Segment.batch_at, "batch", log))
    monkeypatch.setattr(Segment, "position", noted(Segment.position, "position", log))
    load: Any = vars(ControlReader)["generation"].fget
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        monkeypatch.setattr(ControlReader, "generation", property(noted(load, "generation", log)))
        log.clear()
        rows = RowReader(area)
        assert log[:3] == ["generation", FENCE, "position"]

        for go_on in (rows.refresh, rows.advance):
            publisher.publish({(1, "a"): go_on.__name__.encode()})
            log.clear()
            go_on()
            assert log == ["generation", FENCE, "batch"]
