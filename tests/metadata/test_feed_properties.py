"""Feed and scheduler against an oracle: models come, change, move and go while a store is written, answers late or not.

The machine plays owner, store and reading thread. What is published is a table of rows, as the feed makes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shmroute.metadata.scheduler import MetadataRead, MetadataRequest, Now, PendingRead, ReadScheduler
from shmroute.metadata.store import Absent, Found, too_large
from shmroute.metadata.template import KeyTemplate
from shmroute.rows import Kind, MetadataRow, MetadataState, RouteRow, RowKey, encode
from shmroute.watcher.metadata_feed import MetadataFeed

# Two models, so that things happen to the same one again and again.
NAMESPACES = st.sampled_from(["east", "west"])
MODELS = st.just("m")
APPS = st.sampled_from(["alpha", "beta"])
VERSIONS = st.sampled_from(["v-1", "v-2"])
LIMIT_BYTES = 100

decode = msgspec.msgpack.Decoder(MetadataRow).decode


class SteppedLoader:
    """The loader without its thread: the state machine takes its steps."""

    def __init__(self, scheduler: ReadScheduler, now: Any) -> None:
        self.scheduler = scheduler
        self.now = now
        self.requested: list[MetadataRequest] = []

    def request(self, wanted: Iterable[MetadataRequest]) -> None:
        for each in wanted:
            self.requested.append(each)
            self.scheduler.request(each, self.now())

    def forget(self, rows: Iterable[RowKey]) -> None:
        for row in rows:
            self.scheduler.forget(row)


def named(row: RowKey) -> tuple[str, str]:
    """Return namespace and model of a METADATA row."""
    assert row[0] == Kind.METADATA
    namespace, _, model = row[1].partition("/")
    return namespace, model


class FeedMachine(RuleBasedStateMachine):
    @initialize(template=st.sampled_from(["{app}_{model}", "{namespace}/{app}_{model}", "{model}@{version}"]))
    def begin(self, template: str) -> None:
        self.template = KeyTemplate(template)
        self.scheduler = ReadScheduler(dice=lambda: 0.5)
        self.now = 0.0
        self.loader = SteppedLoader(self.scheduler, self.moment)
        self.feed = MetadataFeed(cast("Any", self.loader), self.template)
        self.serial = 0
        self.store: dict[str, bytes | Absent] = {}
        self.history: dict[str, list[bytes]] = {}
        self.wanted: dict[tuple[str, str], tuple[str, str]] = {}
        self.reading: list[list[tuple[PendingRead, Found]]] = []
        self.queue: list[MetadataRead] = []
        self.table: dict[tuple[str, str], bytes] = {}
        self.tickets: dict[tuple[str, str], int] = {}
        self.settled: set[int] = set()
        """Tickets that must not be read again: loaded, or too large and not retried since."""

    def moment(self) -> Now:
        return Now(self.now, 1e9 + self.now)

    def found(self, key: str) -> Found:
        return self.store.get(key, Absent(MetadataState.MISSING, "no such key"))

    def look_up(self, key: RowKey) -> bytes | None:
        return self.table.get(named(key))

    def publish(self, rows: dict[RowKey, bytes | None]) -> None:
        for key, row in rows.items():
            if row is None:
                del self.table[named(key)]
            else:
                self.table[named(key)] = row

    def model_row(self, model: str) -> dict[RowKey, bytes | None]:
        """Return the MODEL row, with a route for each namespace that serves the model."""
        routes = [
            RouteRow(model, version, app, "1", namespace, "appmodel")
            for (namespace, name), (app, version) in sorted(self.wanted.items())
            if name == model
        ]
        row = encode(msgspec.structs.replace(routes[0], others=tuple(routes[1:]))) if routes else None
        return {(Kind.MODEL, model): row}

    def follow(self, model: str) -> list[MetadataRequest]:
        """Return the owner publishes the model's row; returns what the feed requests."""
        self.loader.requested.clear()
        self.publish(self.feed.follow(self.model_row(model), self.look_up))
        for each in self.loader.requested:
            self.tickets[named(each.row)] = each.ticket
        return list(self.loader.requested)

    # --- what happens ----------------------------------------------------------------------------------

    @rule(namespace=NAMESPACES, model=MODELS, app=APPS, version=VERSIONS)
    def want(self, namespace: str, model: str, app: str, version: str) -> None:
        same = self.wanted.get((namespace, model)) == (app, version)
        self.wanted[namespace, model] = app, version
        requested = [(*named(each.row), each.key, each.version) for each in self.follow(model)]
        assert requested == ([] if same else [(namespace, model, self.key(namespace, model), version)])

    @rule(namespace=NAMESPACES, model=MODELS)
    def go(self, namespace: str, model: str) -> None:
        name = namespace, model
        self.wanted.pop(name, None)
        self.tickets.pop(name, None)
        assert self.follow(model) == []

    @rule(namespace=NAMESPACES, model=MODELS, says=st.none() | VERSIONS)
    def write(self, namespace: str, model: str, says: str | None) -> None:
        self.serial += 1
        key = self.key(namespace, model)
        value = f'{{"serial": {self.serial}, "version": "{says}"}}' if says else f"serial {self.serial}"
        self.store[key] = value.encode()
        self.history.setdefault(key, []).append(value.encode())

    @rule(
        namespace=NAMESPACES,
        model=MODELS,
        instead=st.sampled_from(
            [too_large(LIMIT_BYTES + 1, LIMIT_BYTES), Absent(MetadataState.WRONG_TYPE, "the key holds a list")]
        ),
    )
    def spoil(self, namespace: str, model: str, instead: Absent) -> None:
        self.store[self.key(namespace, model)] = instead

    @rule(namespace=NAMESPACES, model=MODELS)
    def delete(self, namespace: str, model: str) -> None:
        self.store.pop(self.key(namespace, model), None)

    def key(self, namespace: str, model: str) -> str:
        """Return the key that is wanted of the model."""
        app, version = self.wanted.get((namespace, model), ("alpha", "v-1"))
        return self.template.key(namespace, app, model, version)

    @rule(count=st.integers(1, 4))
    def read(self, count: int) -> None:
        """Send requests to the store; `answer` delivers its answers later."""
        wants = self.scheduler.take(count, self.moment())
        for want in wants:
            assert named(want.row) in self.wanted
            assert want.key == self.key(*named(want.row))
            assert want.ticket not in self.settled
            assert all(want.ticket != other.ticket for answers in self.reading for other, _ in answers)
        if wants:
            self.reading.append([(want, self.found(want.key)) for want in wants])

    @rule(which=st.integers(0, 10))
    def answer(self, which: int) -> None:
        if self.reading:
            self.take_answers(self.reading.pop(which % len(self.reading)))

    def take_answers(self, answers: list[tuple[PendingRead, Found]]) -> None:
        self.queue += self.scheduler.answered(answers, self.moment())
        for want, found in answers:
            version = self.wanted.get(named(want.row), ("", ""))[1]
            late = isinstance(found, bytes) and b'"version"' in found and f'"{version}"'.encode() not in found
            if isinstance(found, Absent):
                late = found.state != MetadataState.TOO_LARGE
            if not late:
                self.settled.add(want.ticket)

    @rule(count=st.integers(1, 4))
    def read_at_once(self, count: int) -> None:
        self.read(count)
        self.answer(-1)

    @rule(which=st.integers(0, 10))
    def fail(self, which: int) -> None:
        if self.reading:
            wants = [want for want, _ in self.reading.pop(which % len(self.reading))]
            self.queue += self.scheduler.unanswered(wants, "connection refused")

    @rule()
    def owner(self) -> None:
        """Pass the values read so far to the owner."""
        for read in self.queue:
            rows = self.feed.settle([read], self.look_up)
            assert bool(rows) == (self.tickets.get(named(read.row)) == read.ticket)
            self.publish(rows)
        self.queue.clear()

    @rule(seconds=st.sampled_from([0.1, 0.3, 2.0, 500.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def retry(self) -> None:
        self.scheduler.retry(self.moment())
        self.settled -= {entry.ticket for entry in self.scheduler.pending.values()}

    # --- what always holds -----------------------------------------------------------------------------

    @invariant()
    def rows_are_those_of_the_models_wanted_and_say_what_is_wanted(self) -> None:
        if not hasattr(self, "table"):
            return
        assert self.table.keys() == self.wanted.keys()
        for name, row in ((name, decode(row)) for name, row in self.table.items()):
            assert (row.app, row.wanted) == self.wanted[name]
            assert (row.value is None) == (row.version is None)
            if row.state == MetadataState.LOADED:
                assert row.version == row.wanted

    @invariant()
    def no_value_stands_under_a_version_it_was_not_read_for(self) -> None:
        if not hasattr(self, "table"):
            return
        for (namespace, model), row in ((name, decode(row)) for name, row in self.table.items()):
            if row.value is not None:
                assert row.version is not None
                key = self.template.key(namespace, row.app, model, row.version)
                assert row.value in self.history[key]
                if b"version" in row.value:
                    assert f'"version": "{row.version}"'.encode() in row.value

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "scheduler"):
            assert len(self.scheduler.pending) <= len(self.wanted)

    # --- what comes out in the end ---------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        while self.reading:
            self.fail(0)
        self.retry()
        for _ in range(3):
            while wants := self.scheduler.take(100, self.moment()):
                assert not self.settled & {want.ticket for want in wants}
                self.take_answers([(want, self.found(want.key)) for want in wants])
            self.now += 120.0
        self.owner()
        self.rows_are_those_of_the_models_wanted_and_say_what_is_wanted()
        self.no_value_stands_under_a_version_it_was_not_read_for()
        pending = {named(each.row): each for each in self.scheduler.pending.values()}
        for (namespace, model), (app, version) in self.wanted.items():
            row = decode(self.table[namespace, model])
            found = self.found(self.template.key(namespace, app, model, version))
            there = (namespace, model) not in pending
            assert there == (row.state == MetadataState.LOADED)
            if not there:
                if isinstance(found, Absent):
                    assert (row.state, row.reason) == (found.state, found.reason)
                else:
                    assert row.state == MetadataState.OUTDATED
        assert self.scheduler._again_bytes == sum(entry.size for entry in self.scheduler.pending.values())


FeedMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
test_any_history_leaves_rows_that_are_true = FeedMachine.TestCase


@pytest.mark.long
class TestManyHistories(FeedMachine.TestCase):  # type: ignore[misc, valid-type]
    """The same for ten times as many histories."""

    settings = settings(max_examples=1000, stateful_step_count=50, deadline=None)
