"""The segment's reader over damaged bytes: the right row, or `AreaUnreadable`; never another row, a crash or a hang.

What no checksum can see is left out on purpose: a slot overwritten with zeros or with a valid slot of the same row
(see the protocol in `shmroute.shm`). Single changed bytes never make one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmroute.errors import AreaUnreadable, ModelNotFound, NotReady
from shmroute.rows import Kind, encode
from shmroute.shm import layout
from shmroute.shm.names import control_name, path_of, segment_name
from shmroute.shm.reader import RowReader
from shmroute.shm.writing.publisher import Publisher
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route
from tests.fuzz.mutations import check_told
from tests.leftovers import new_area, remove_area
from tests.shm.tables import Table, changed

MODELS = [f"model-{number}" for number in range(12)]
ABSENT = ["model-99", "", "x" * 300]

FLIPS = (0x01, 0x10, 0x80, 0xFF)


def route(model: str, version: int) -> bytes:
    """Return the route of a model; long names are included, as their rows are."""
    app = "app" * (100 if model == "model-3" else 1)
    return encode(Route(model, f"v-{version}", app, "v1", "ns", "appmodel"))


class Area(NamedTuple):
    """A small area as bytes, with the rows of each of its generations."""

    control: bytes
    segment: bytes
    identity: int
    log_at: int
    end: int
    states: dict[int, Table]

    @property
    def newest(self) -> Table:
        return self.states[max(self.states)]


@pytest.fixture(scope="module")
def original() -> Area:
    return make_original()


def make_original() -> Area:
    area = new_area()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layout, "MIN_SLOTS", 32)
        with Publisher(area) as publisher:
            state: Table = {(Kind.MODEL, model): route(model, 0) for model in MODELS[:8]}
            state[Kind.APP, "app"] = b"not looked at"
            publisher.replace(state)
            states = {1: state}
            for generation in range(2, 7):
                changes: dict[tuple[int, str], bytes | None] = {
                    (Kind.MODEL, MODELS[generation]): route(MODELS[generation], generation),
                    (Kind.MODEL, MODELS[generation + 5]): route(MODELS[generation + 5], generation),
                    (Kind.MODEL, MODELS[generation - 2]): None,
                    (Kind.MODEL, "model-3"): route("model-3", generation) if generation % 2 else None,
                }
                publisher.publish(changes)
                state = changed(state, changes)
                states[generation] = state
            writer = publisher._writer
            assert writer is not None
            assert publisher.generation == 6
            end = writer.end + layout.LOG_SPARE_BYTES
            log_at = writer.header.log_at
            identity = writer.identity
    control = Path(path_of(control_name(area))).read_bytes()
    segment = Path(path_of(segment_name(area, identity))).read_bytes()
    remove_area(area)
    return Area(control, segment, identity, log_at, end, states)


class Laid:
    """An area made from given bytes, which the test can change under its readers."""

    def __init__(self, original: Area) -> None:
        self.original = original
        self.area = new_area()
        self._control = Path(path_of(f"shmroute-{self.area}"))
        self._segment = Path(path_of(segment_name(self.area, original.identity)))
        self._control.write_bytes(original.control)
        self._segment.write_bytes(original.segment)

    def change(self, which: str, offset: int, data: bytes) -> None:
        with (self._control if which == "control" else self._segment).open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def replace(self, which: str, data: bytes) -> None:
        path = self._control if which == "control" else self._segment
        path.unlink()
        path.write_bytes(data)

    def remove(self) -> None:
        remove_area(self.area)


@pytest.fixture
def laid(original: Area) -> Iterator[Laid]:
    laid = Laid(original)
    yield laid
    laid.remove()


def check(laid: Laid) -> None:
    """Attach again in every possible way, and compare all answers."""
    states = laid.original.states
    try:
        rows = RowReader(laid.area)
    except (AreaUnreadable, NotReady) as error:
        check_told(error)
        return
    check_rows(rows, states)
    try:
        follower = RowReader(laid.area)
        if follower.seek(1):
            state = states[1]
            while (changes := follower.advance()) is not None:
                for kind, key, old, new in changes:
                    assert state.get((kind, key)) == old
                    state = changed(state, {(kind, key): new})
                assert state == states[follower.generation]
    except AreaUnreadable as error:
        check_told(error)
    check_reader(Reader(laid.area), states[rows.generation])


def check_rows(rows: RowReader, states: dict[int, Table]) -> None:
    state = states[rows.generation]
    for model in (*MODELS, *ABSENT):
        try:
            found = rows.get(Kind.MODEL, model)
        except AreaUnreadable as error:
            check_told(error)
        else:
            assert found == state.get((Kind.MODEL, model)), model
    try:
        listed = {(kind, key): value for kind, key, value in rows.rows()}
    except AreaUnreadable as error:
        check_told(error)
    else:
        assert listed == state


def check_reader(reader: Reader, state: Table) -> None:
    for model in (*MODELS, *ABSENT):
        value = state.get((Kind.MODEL, model))
        try:
            found = reader.resolve(model)
        except ModelNotFound:
            assert value is None, model
        except AreaUnreadable as error:
            check_told(error)
        else:
            assert value is not None, model
            assert encode(Route(*found._public())) == value


def test_an_undamaged_segment_is_read_completely(laid: Laid) -> None:
    rows = RowReader(laid.area)
    assert rows.generation == 6
    assert {(kind, key): value for kind, key, value in rows.rows()} == laid.original.newest
    check(laid)


def offsets(original: Area) -> range:
    return range(original.end)


@pytest.mark.parametrize("part", range(8))
def test_a_changed_byte_in_a_segment_never_makes_a_wrong_row(laid: Laid, part: int) -> None:
    """The test changes each byte in turn, up to a little after the end of the log."""
    segment = laid.original.segment
    choose = random.Random(part)
    for offset in offsets(laid.original)[part::8]:
        laid.change("segment", offset, bytes([segment[offset] ^ choose.choice(FLIPS)]))
        check(laid)
        laid.change("segment", offset, segment[offset : offset + 1])
    check(laid)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("flip", [*(1 << bit for bit in range(8)), *random.Random(1).sample(range(1, 256), 8)])
def test_a_byte_changed_in_many_ways_never_makes_a_wrong_row(laid: Laid, flip: int) -> None:
    segment = laid.original.segment
    for offset in offsets(laid.original):
        laid.change("segment", offset, bytes([segment[offset] ^ flip]))
        check(laid)
        laid.change("segment", offset, segment[offset : offset + 1])


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.long)])
def test_a_byte_changed_under_a_lagging_reader_never_makes_a_wrong_row(laid: Laid, step: int) -> None:
    """A reader at an earlier generation follows the links between versions."""
    segment, states = laid.original.segment, laid.original.states
    lagging = {}
    for generation in range(1, 6):
        rows = lagging[generation] = RowReader(laid.area)
        assert rows.seek(generation)
    for offset in range(layout.SLOTS_AT, laid.original.end, step):
        laid.change("segment", offset, bytes([segment[offset] ^ 0xFF]))
        for rows in lagging.values():
            check_rows(rows, states)
        laid.change("segment", offset, segment[offset : offset + 1])


@pytest.mark.parametrize("flip", FLIPS)
def test_a_changed_byte_in_a_control_block_never_makes_a_wrong_row(laid: Laid, flip: int) -> None:
    control = laid.original.control
    for offset in [*range(256), *range(layout.STATUS_AT[0], layout.STATUS_AT[0] + 32), len(control) - 1]:
        laid.change("control", offset, bytes([control[offset] ^ flip]))
        check(laid)
        laid.change("control", offset, control[offset : offset + 1])
    check(laid)


@given(data=st.data())
def test_several_changed_bytes_in_records_never_make_a_wrong_row(original: Area, data: st.DataObject) -> None:
    laid = Laid(original)
    try:
        records_at = layout.SLOTS_AT + 32 * layout.WORD_BYTES
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(records_at, original.end - 1))
            laid.change("segment", start, data.draw(st.binary(min_size=1, max_size=min(40, original.end - start))))
        check(laid)
    finally:
        laid.remove()


@given(data=st.data())
def test_a_segment_cut_at_any_length_never_makes_a_wrong_row(original: Area, data: st.DataObject) -> None:
    laid = Laid(original)
    try:
        which = data.draw(st.sampled_from(["segment", "control"]))
        whole = original.segment if which == "segment" else original.control
        laid.replace(which, whole[: data.draw(st.integers(0, len(whole)))])
        check(laid)
    finally:
        laid.remove()


@given(which=st.sampled_from(["segment", "control"]), head=st.sampled_from(["none", "magic", "header"]), data=st.data())
def test_foreign_bytes_never_make_a_row(original: Area, which: str, head: str, data: st.DataObject) -> None:
    """The foreign bytes begin at byte 0, after a valid magic and version, or after a valid header."""
    laid = Laid(original)
    try:
        whole = original.segment if which == "segment" else original.control
        keep = {"none": 0, "magic": 12, "header": 64}[head]
        body = random.Random(data.draw(st.integers(0, 2**32))).randbytes(len(whole) - keep)
        laid.replace(which, whole[:keep] + body)
        if which == "control":
            check(laid)
            return
        reader = Reader(laid.area)
        for model in (*MODELS, *ABSENT):
            with pytest.raises((AreaUnreadable, ModelNotFound)):
                reader.resolve(model)
    finally:
        laid.remove()


@given(data=st.data())
def test_segment_of_shuffled_pieces_never_gives_a_foreign_row(original: Area, data: st.DataObject) -> None:
    """Records and batches that are valid, at the wrong place: an older version of the row at the most."""
    laid = Laid(original)
    try:
        records_at = layout.SLOTS_AT + 32 * layout.WORD_BYTES
        for _ in range(data.draw(st.integers(1, 3))):
            length = data.draw(st.integers(1, 50)) * 8
            source = data.draw(st.integers(records_at // 8, (original.end - length) // 8)) * 8
            target = data.draw(st.integers(records_at // 8, (original.end - length) // 8)) * 8
            laid.change("segment", target, original.segment[source : source + length])
        versions = {
            model: {state.get((Kind.MODEL, model)) for state in original.states.values()}
            for model in (*MODELS, *ABSENT)
        }
        reader = Reader(laid.area)
        for model, known in versions.items():
            try:
                found = reader.resolve(model)
            except (AreaUnreadable, ModelNotFound) as error:
                check_told(error)
            else:
                assert encode(Route(*found._public())) in known
    finally:
        laid.remove()
