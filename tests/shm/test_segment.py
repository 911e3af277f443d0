"""A segment read at each end of its log, and the detection of damage."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmroute.errors import AreaUnreadable
from shmroute.shm import layout, posix
from shmroute.shm.segment import NO_END, Segment
from shmroute.shm.writing.publisher import Publisher
from tests.leftovers import new_area, remove_area
from tests.shm import ground
from tests.shm.tables import Changes, Table, changed, current_segment


@given(
    batches=st.lists(
        st.dictionaries(
            st.tuples(st.integers(0, 2), st.sampled_from("abcdefgh")), st.none() | st.binary(max_size=4), max_size=5
        ),
        max_size=12,
    )
)
def test_each_end_of_the_log_gives_exactly_its_generation(batches: list[Changes]) -> None:
    area = new_area()
    try:
        with Publisher(area) as publisher:
            publisher.replace({(0, "a"): b"base", (1, "b"): b"base"})
            states: list[Table] = [{(0, "a"): b"base", (1, "b"): b"base"}]
            writer = publisher._writer
            assert writer is not None
            ends = [writer.end]
            for changes in batches:
                before = publisher.generation
                if publisher.publish(changes) != before:
                    states.append(changed(states[-1], changes))
                    ends.append(writer.end)
            segment = Segment(current_segment(area))
            for state, end in zip(states, ends, strict=True):
                listed = {(record.kind, record.key.decode()): record.value for record in segment.rows(end // 8)}
                assert listed == state
                for kind in range(3):
                    of_kind = {record.key.decode(): record.value for record in segment.rows(end // 8, kind)}
                    assert of_kind == {key: value for (one, key), value in state.items() if one == kind}
                    for key in "abcdefghi":
                        assert segment.find(kind, key.encode(), end // 8) == state.get((kind, key))
            assert walked(segment) == len(states) - 1
    finally:
        remove_area(area)


def walked(segment: Segment) -> int:
    """Return how many batches lead from the log's beginning to its end."""
    generation, offset = segment.header.start, segment.header.log_at
    while (batch := segment.batch_at(offset, generation + 1)) is not None:
        keys = [(record.kind, record.key) for _, record in segment.records_of(offset, batch)]
        assert segment.changed_keys(offset, batch) == keys
        offset += batch.length
        generation += 1
    return generation - segment.header.start


def test_the_newest_batch_is_found_for_any_log_length(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"0"})
        segment = Segment(current_segment(area))
        assert segment.position() == (1, segment.header.log_at)
        for number in range(1, 50):
            publisher.publish({(1, "a"): b"%d" % number})
            generation, offset = segment.position()
            assert generation == publisher.generation - 1
            batch = segment.batch_at(offset, generation + 1)
            assert batch is not None
            assert batch.generation == publisher.generation


def test_there_is_no_batch_beyond_the_log_nor_at_an_odd_offset(area: str) -> None:
    with Publisher(area) as publisher:
        publisher.publish({(1, "a"): b"0"})
        publisher.publish({(1, "a"): b"1"})
        segment = Segment(current_segment(area))
        _, offset = segment.position()
        assert segment.batch_at(offset, 2) is not None
        assert segment.batch_at(offset, 3) is None
        assert segment.batch_at(offset + 1, 2) is None
        assert segment.batch_at(offset + 8, 2) is None
        assert segment.batch_at(segment.header.capacity - 8, 2) is None
        assert segment.batch_at(segment.header.capacity + 8, 2) is None


def test_pages_behind_the_log_are_reserved_before_readers_look(area: str) -> None:
    """Reading an unreserved page takes memory, and kills the process if there is none."""
    with Publisher(area) as publisher:
        for number in range(300):
            publisher.publish({(1, "a"): os.urandom(number * 7)})
            writer = publisher._writer
            assert writer is not None
            taken = posix.taken_bytes(writer.name)
            assert taken >= writer.end + layout.BATCH_BYTES
            Segment(writer.name).batch_at(writer.end, publisher.generation + 1)
            assert posix.taken_bytes(writer.name) == taken


# --- damage ---------------------------------------------------------------------------------------------------


def build(area: str) -> list[tuple[int, Table]]:
    """Return a small segment with a log. Returns its states with their ends."""
    with Publisher(area) as publisher:
        state: Table = {(1, "a"): b"one", (1, "b"): b"two", (2, "c"): b"three"}
        publisher.replace(state)
        writer = publisher._writer
        assert writer is not None
        states = [(writer.end, state)]
        for changes in ({(1, "a"): b"ONE"}, {(1, "b"): None, (1, "d"): b"four"}, {(1, "a"): b"1", (1, "b"): b"2"}):
            publisher.publish(changes)
            states.append((writer.end, state := changed(state, changes)))
        return states


def poke(area: str, offset: int, data: bytes) -> None:
    """Overwrite bytes of the segment."""
    ground.poke(current_segment(area), offset, data)


def slot_offset(segment: Segment, kind: int, key: bytes) -> int:
    return layout.SLOTS_AT + segment.probe(kind, key, NO_END)[1] * 8


def word_of(segment: Segment, kind: int, key: bytes) -> int:
    """Return the offset of the row's newest record, in words."""
    return segment.probe(kind, key, NO_END)[2]


def hashed(segment: Segment, kind: int, key: bytes) -> int:
    return layout.hash_of(segment.header.hash_key, kind, key)


def word(value: int) -> bytes:
    return value.to_bytes(8, "little")


def test_a_slot_that_leads_to_another_row_is_detected(area: str) -> None:
    states = build(area)
    segment = Segment(current_segment(area))
    end_word = states[-1][0] // 8
    a, c = slot_offset(segment, 1, b"a"), slot_offset(segment, 2, b"c")
    poke(area, a, word(layout.slot_entry(hashed(segment, 1, b"a"), segment.slots[(c - 128) // 8] & layout.WORD_MASK)))
    with pytest.raises(AreaUnreadable, match="another row"):
        segment.find(1, b"a", end_word)
    with pytest.raises(AreaUnreadable, match="another row"):
        list(segment.rows(end_word))


def test_a_slot_with_a_changed_hash_is_an_error_not_an_absent_row(area: str) -> None:
    states = build(area)
    segment = Segment(current_segment(area))
    at = slot_offset(segment, 1, b"a")
    entry = segment.slots[(at - 128) // 8]
    poke(area, at, word(entry ^ 1 << 63))
    assert segment.probe(1, b"a", NO_END)[3] is None
    with pytest.raises(AreaUnreadable, match="another row"):
        segment.find(1, b"a", states[-1][0] // 8)
    with pytest.raises(AreaUnreadable, match="another row"):
        list(segment.rows(states[-1][0] // 8))


def test_a_changed_slot_offset_never_gives_an_older_row(area: str) -> None:
    states = build(area)
    segment = Segment(current_segment(area))
    newest = word_of(segment, 1, b"a")
    at = slot_offset(segment, 1, b"a")
    for older in (middle := segment.record_at(newest).previous_word, segment.record_at(middle).previous_word):
        poke(area, at, older.to_bytes(4, "little"))
        assert segment.probe(1, b"a", NO_END)[3] is None
        with pytest.raises(AreaUnreadable, match="another row"):
            segment.find(1, b"a", states[-1][0] // 8)


@pytest.mark.parametrize("target", [0, 1, 8, 1 << 20, 0xFFFFFFFF])
def test_a_slot_that_leads_outside_the_records_is_detected(area: str, target: int) -> None:
    states = build(area)
    segment = Segment(current_segment(area))
    at = slot_offset(segment, 1, b"a")
    poke(area, at, word(layout.slot_entry(hashed(segment, 1, b"a"), target)))
    for end, _ in states:
        with pytest.raises(AreaUnreadable):
            segment.find(1, b"a", end // 8)
        with pytest.raises(AreaUnreadable):
            list(segment.rows(end // 8))


def test_a_search_in_a_full_slot_table_ends(area: str) -> None:
    build(area)
    segment = Segment(current_segment(area))
    row = segment.slots[segment.probe(1, b"a", NO_END)[1]]
    poke(area, layout.SLOTS_AT, word(row) * segment.header.slots)
    with pytest.raises(AreaUnreadable, match="no slot is free"):
        segment.find(1, b"zz", NO_END)


@pytest.mark.fault(29)
def test_a_walk_over_records_that_supersede_each_other_ends(area: str) -> None:
    states = build(area)
    segment = Segment(current_segment(area))
    newest = word_of(segment, 1, b"a")
    made_up = layout.pack_record(1, b"a", b"1", newest)
    poke(area, newest * 8, made_up)
    for search in (
        lambda: segment.find(1, b"a", states[0][0] // 8),
        lambda: list(segment.rows(states[0][0] // 8)),
    ):
        with pytest.raises(AreaUnreadable, match="newer than itself"):
            search()


def test_a_damaged_link_between_versions_is_detected(area: str) -> None:
    """The versions of row (1, a) are "1" -> "ONE" -> "one"; a reader at "ONE" must not get "one"."""
    states = build(area)
    segment = Segment(current_segment(area))
    newest = word_of(segment, 1, b"a")
    middle = segment.record_at(newest).previous_word
    oldest = segment.record_at(middle).previous_word
    assert [segment.record_at(at).value for at in (newest, middle, oldest)] == [b"1", b"ONE", b"one"]
    poke(area, newest * 8 + 12, oldest.to_bytes(4, "little"))
    with pytest.raises(AreaUnreadable, match="damaged"):
        segment.find(1, b"a", states[1][0] // 8)


@pytest.mark.parametrize("hint", [1, 8, 127, 128, 1 << 40, (1 << 64) - 8])
def test_a_log_hint_outside_the_segment_is_refused(area: str, hint: int) -> None:
    build(area)
    poke(area, layout.HINT_AT, word(hint))
    with pytest.raises(AreaUnreadable, match="newest batch is damaged"):
        Segment(current_segment(area)).position()


def test_a_log_hint_set_back_only_lengthens_the_search(area: str) -> None:
    build(area)
    segment = Segment(current_segment(area))
    poke(area, layout.HINT_AT, word(segment.header.log_at))
    assert segment.position() == (1, segment.header.log_at)
    poke(area, layout.HINT_AT, word(0))
    assert segment.position() == (1, segment.header.log_at)
    assert walked(segment) == 3
