"""Publisher and readers against a dict: any order of publishes, rebuilds, restarts, crashes and late readers."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shmroute.errors import NotReady, SnapshotExpired
from shmroute.shm.reader import RowReader
from shmroute.shm.writing.publisher import Publisher
from tests.forks import killed_at
from tests.leftovers import new_area, remove_area
from tests.shm.tables import Changes, Table, changed, segments, table

MAX_SEGMENTS = 4

EXAMPLES_FRACTION = 4
"""Each example is 40 steps, some of them with a process that is killed: 1/4 of the profile's number will do."""

KEYS = [f"key-{number}" for number in range(12)]

some_changes = st.dictionaries(
    st.tuples(st.integers(0, 1), st.sampled_from(KEYS)),
    st.none() | st.binary(max_size=30) | st.just(bytes(400)),
    max_size=6,
)


@pytest.fixture(autouse=True)
def _small(small_segments: None) -> None: ...


class Watching:
    """A reader, and the table that it must show at its generation."""

    def __init__(self, reader: RowReader, rows: Table) -> None:
        self.reader = reader
        self.rows = dict(rows)
        self.generation = reader.generation

    def check(self) -> None:
        if self.reader.expired:
            with pytest.raises(SnapshotExpired):
                self.reader.get(0, KEYS[0])
            return
        assert table(self.reader) == self.rows
        for kind in (0, 1):
            for key in KEYS:
                assert self.reader.get(kind, key) == self.rows.get((kind, key))

    def went_on(self) -> None:
        assert self.reader.generation >= self.generation
        self.generation = self.reader.generation


class AgainstADict(RuleBasedStateMachine):
    """The oracle is `self.rows`; readers lag behind it by as much as the rules let them."""

    def __init__(self) -> None:
        super().__init__()
        self.area = new_area()
        self.rows: Table = {}
        self.ready = False
        self.standing: list[Watching] = []
        self.followers: list[Watching] = []

    @initialize()
    def start(self) -> None:
        self.publisher = Publisher(self.area)

    # --- writing ----------------------------------------------------------------------------------------------

    @rule(changes=some_changes)
    def publish(self, changes: Changes) -> None:
        before = self.publisher.generation
        after = changed(self.rows, changes)
        self.publisher.publish(changes)
        if after == self.rows:
            assert self.publisher.generation <= before + 1, "a rebuild may have come to its end"
        else:
            assert self.publisher.generation > before
        self.ready = self.ready or after != self.rows
        self.rows = after

    @rule(rows=some_changes)
    def replace(self, rows: Changes) -> None:
        self.rows = {key: value for key, value in rows.items() if value is not None}
        self.publisher.replace(self.rows)
        self.ready = True

    @rule()
    def work_on_a_rebuild(self) -> None:
        self.publisher.maintain(0.0)

    @rule()
    def restart(self) -> None:
        self.publisher.close()
        self.publisher = Publisher(self.area)

    @rule(changes=some_changes, line=st.integers(0, 700))
    def crash(self, changes: Changes, line: int) -> None:
        """Kill the next writer at some line of taking over or publishing, and start another one."""
        generation = self.publisher.generation
        self.publisher.close()

        def work() -> None:
            publisher = Publisher(self.area)
            publisher.publish(changes)
            while publisher.maintain():
                pass

        killed_at(line, work)
        after = changed(self.rows, changes)
        if self.ready:
            late = RowReader(self.area)
            assert table(late) in (self.rows, after)
            assert late.generation >= generation
        assert len(segments(self.area)) <= MAX_SEGMENTS
        self.publisher = Publisher(self.area)
        found = {(kind, key): value for kind in (0, 1) for key, value in self.publisher.rows(kind)}
        assert found in (self.rows, after)
        assert self.publisher.generation >= generation
        self.ready = self.ready or self.publisher.generation > 0
        self.rows = found

    @rule()
    def remove_and_begin_again(self) -> None:
        self.publisher.close(remove=True)
        assert segments(self.area) == []
        self.publisher = Publisher(self.area)
        self.rows = {}
        self.ready = False
        for each in (*self.standing, *self.followers):
            each.generation = 0

    # --- reading ----------------------------------------------------------------------------------------------

    @rule()
    def attach(self) -> None:
        try:
            reader = RowReader(self.area)
        except NotReady:
            assert not self.ready
            return
        assert self.ready
        assert reader.generation == self.publisher.generation
        self.standing.append(Watching(reader, self.rows))
        self.followers.append(Watching(reader.snapshot(), self.rows))

    @precondition(lambda self: self.standing)
    @rule(data=st.data())
    def refresh(self, data: st.DataObject) -> None:
        watching = data.draw(st.sampled_from(self.standing))
        said = watching.reader.refresh()
        if not self.ready:
            assert said == []
            return
        differs = {key for key in {*self.rows, *watching.rows} if self.rows.get(key) != watching.rows.get(key)}
        if said is not None:
            assert differs <= {(kind, key.decode()) for kind, key in said}, "a memo would keep an old row"
        watching.rows = dict(self.rows)
        watching.went_on()
        assert watching.generation == self.publisher.generation

    @precondition(lambda self: self.followers)
    @rule(data=st.data(), steps=st.integers(1, 10))
    def advance(self, data: st.DataObject, steps: int) -> None:
        watching = data.draw(st.sampled_from(self.followers))
        for _ in range(steps):
            try:
                changes = watching.reader.advance()
            except SnapshotExpired:
                assert watching.reader.expired
                watching.reader.refresh()
                if self.ready:
                    watching.rows = dict(self.rows)
                return
            if changes is None:
                if self.ready:
                    assert watching.rows == self.rows
                return
            assert len({(kind, key) for kind, key, _, _ in changes}) == len(changes)
            for kind, key, old, new in changes:
                assert watching.rows.get((kind, key)) == old != new
                watching.rows = changed(watching.rows, {(kind, key): new})
            watching.went_on()

    @precondition(lambda self: self.standing)
    @rule(data=st.data())
    def lag(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.standing)).check()
        data.draw(st.sampled_from(self.followers)).check()

    # --- always -----------------------------------------------------------------------------------------------

    @invariant()
    def few_segments(self) -> None:
        assert len(segments(self.area)) <= 2

    @invariant()
    def the_current_segment_is_never_void(self) -> None:
        writer = self.publisher._writer
        if writer is not None:
            assert self.publisher.control.oldest <= writer.start

    def teardown(self) -> None:
        for watching in (*self.standing, *self.followers):
            watching.check()
        self.publisher.close()
        remove_area(self.area)


@pytest.mark.hypothesis
def test_an_area_equals_a_dict_after_any_operations() -> None:
    profile = settings.default
    assert profile is not None
    run_state_machine_as_test(
        AgainstADict, settings=settings(max_examples=profile.max_examples // EXAMPLES_FRACTION, stateful_step_count=40)
    )
