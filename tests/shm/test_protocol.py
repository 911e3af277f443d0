"""The order of stores and fences in the protocol, which tests on a strongly ordered processor cannot show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shmroute.shm import layout, reader
from shmroute.shm.control import ControlReader
from shmroute.shm.reader import RowReader
from shmroute.shm.segment import Segment
from shmroute.shm.writing import control, packing, segment_writer
from shmroute.shm.writing.publisher import Publisher
from shmroute.shm.writing.segment_writer import SegmentWriter

FENCE = "fence"

CONTROL_WORDS = {layout.OLDEST_AT // 8: "oldest", layout.SEGMENT_AT // 8: "segment"}


class Noted:
    """A view that records its stores; consecutive stores of one kind are recorded once."""

    def __init__(self, view: Any, name: Callable[[Any], str], log: list[str]) -> None:
        self._view = view
        self._name = name
        self._log = log

    def __setitem__(self, at: Any, value: Any) -> None:
        self._view[at] = value
        note(self._log, self._name(at))

    def __getitem__(self, at: Any) -> Any:
        return self._view[at]

    def __len__(self) -> int:
        return len(self._view)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)


def note(log: list[str], name: str) -> None:
    if log[-1:] != [name]:
        log.append(name)


def noted(function: Callable[..., Any], name: str, log: list[str]) -> Any:
    """Return the same function, its calls noted."""

    def call(*arguments: Any) -> Any:
        note(log, name)
        return function(*arguments)

    return call


@contextmanager
def noting(publisher: Publisher, log: list[str]) -> Iterator[None]:
    """Note what this publisher stores in segments (by their identity) and its control block."""
    block: Any = publisher.control
    with pytest.MonkeyPatch.context() as patched:
        current: Any = publisher._writer
        names = {current.identity: ""}

        def wrap(writer: Any) -> None:
            prefix = names.setdefault(writer.identity, "new ")

            def named(name: str) -> Callable[[Any], str]:
                return lambda _: name

            for attribute, name in (("_buffer", "records"), ("_words", "word"), ("_slots", "slots")):
                view = getattr(writer, attribute)
                patched.setattr(writer, attribute, Noted(view, named(prefix + name), log), raising=False)

        map_words = SegmentWriter._map_words

        def map_and_wrap(self: Any) -> None:
            map_words(self)
            wrap(self)

        patched.setattr(SegmentWriter, "_map_words", map_and_wrap)
        wrap(current)
        patched.setattr(block, "_store_head", Noted(block._store_head, lambda _: "generation", log))
        patched.setattr(block, "_store", Noted(block._store, lambda at: CONTROL_WORDS.get(at, "pair"), log))
        for module in (segment_writer, control):
            patched.setattr(module, "fence", lambda: note(log, FENCE))
        patched.setattr(segment_writer, "point_slots", packing.plain_point_slots)  # the C twin takes a real view only
        yield


BATCH = ["records", FENCE, "word", FENCE, "slots", FENCE, "word"]
"""The stores of one batch, in order; the last one is the hint."""

SEAL = ["records", FENCE, "word", FENCE, "word"]


@pytest.mark.fault(23)
def test_publish_stores_batch_then_slots_then_hint_then_generation(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        log: list[str] = []
        with noting(publisher, log):
            publisher.publish({(1, "a"): b"2", (1, "b"): b"1"})
        assert log == [*BATCH, FENCE, "generation"]


@pytest.mark.fault(34)
def test_segment_number_is_stored_after_the_generation(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        log: list[str] = []
        with noting(publisher, log):
            publisher._publish_anew({(1, "a"): b"2"})
        began = log.index("records")
        assert log[began:] == [*SEAL, FENCE, "generation", FENCE, "segment"]
        assert "oldest" not in log, "a new file: there is nothing to overwrite"


@pytest.mark.fault(34)
def test_oldest_is_stored_before_the_first_byte_is_overwritten(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"1"})
        publisher._publish_anew({(1, "a"): b"2"})
        former = publisher.control.oldest
        log: list[str] = []
        with noting(publisher, log):
            publisher._publish_anew({(1, "a"): b"3"})
        assert former == 0
        assert publisher.control.oldest == 2, "the segment that was current while the other was overwritten"
        assert log[:3] == ["oldest", FENCE, "new word"], "the word is the magic: nobody can attach"
        fill = ["new word", FENCE, "new records", "new slots", "new records", FENCE, "new word", FENCE]
        assert [step for step in log if step.startswith("new") or step == FENCE][1:9] == fill
        assert log[-9:] == [*SEAL, FENCE, "generation", FENCE, "segment"]


@pytest.mark.fault(23)
def test_a_reader_loads_rows_only_after_a_fence(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(reader, "fence_loads", lambda: note(log, FENCE))
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
            assert log == ["generation", FENCE, "batch", FENCE], "and oldest after a second one"
