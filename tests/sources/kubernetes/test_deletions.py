"""Deletions caused by a definition's deletion are distinguished from users' deletions."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shmroute.resources.key import ObjectKey
from shmroute.resources.table_parser import TableObject
from shmroute.sources.base import Changed, Deleted, Event, Replaced, SourceState
from shmroute.sources.kubernetes import deletions
from shmroute.sources.kubernetes.deletions import DeletionGuard

WAIT_SECONDS = 60.0
KEYS = {name: ObjectKey("", name) for name in "abc"}


def item(name: str, version: str = "1") -> TableObject:
    return TableObject(KEYS[name], "", version, name, b"\x01")


def listed(*names: str) -> Replaced:
    return Replaced("t", tuple(item(name) for name in names))


def deleted(name: str) -> Deleted:
    return Deleted("t", KEYS[name])


class Guarded:
    """A guard whose discovery answers come from the test."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.relisted = threading.Event()
        self.guard = DeletionGuard("t", self, self.ask, self.relisted.set)

    def begin(self) -> None:
        """Pass the first list on, as discovery lists the resource."""
        self.guard.put(SourceState("t", "watching", 7))
        self.guard.put(listed("a", "b", "c"))
        self.answer("")
        assert self.next(3) == [SourceState("t", "watching", 0), listed("a", "b", "c"), SourceState("t", "watching", 7)]

    def put(self, event: Event) -> None:
        self.events.put(event)

    def ask(self) -> str | None:
        self.asked.put(None)
        return self.answers.get(timeout=WAIT_SECONDS)

    def answer(self, reason: str | None) -> None:
        """Wait for a request to discovery, and answer it."""
        self.asked.get(timeout=WAIT_SECONDS)
        self.answers.put(reason)

    def until(self, event: Event) -> list[Event]:
        """Return the events before this one."""
        return list(iter(lambda: self.next()[0], event))

    def next(self, count: int = 1) -> list[Event]:
        return [self.events.get(timeout=WAIT_SECONDS) for _ in range(count)]


@pytest.fixture
def new(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    for name in ("SETTLE_SECONDS", "SPACING_SECONDS", "RETRY_SECONDS", "AWAY_SECONDS", "AWAY_CAP_SECONDS"):
        monkeypatch.setattr(deletions, name, 0.001)
    with running(Guarded()) as guarded:
        yield guarded


@pytest.fixture
def it(new: Guarded) -> Guarded:
    new.begin()
    return new


@contextmanager
def running(it: Guarded) -> Iterator[Guarded]:
    stop = threading.Event()
    thread = threading.Thread(target=it.guard.run, args=(stop,), daemon=True)
    thread.start()
    yield it
    stop.set()
    it.answers.put("")
    it.guard.wake()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()


def test_a_deletion_is_believed_once_discovery_lists_the_resource(it: Guarded) -> None:
    it.guard.put(deleted("a"))
    it.asked.get(timeout=WAIT_SECONDS)
    assert it.events.empty(), "not before the answer"
    it.guard.put(Changed("t", item("b", "2")))
    assert it.next() == [Changed("t", item("b", "2"))], "changes of others do not wait"
    it.answers.put("")
    assert it.next() == [deleted("a")]


def test_an_object_recreated_during_the_wait_is_not_deleted(it: Guarded) -> None:
    it.guard.put(deleted("a"))
    it.asked.get(timeout=WAIT_SECONDS)
    it.guard.put(Changed("t", item("a", "2")))
    it.guard.put(deleted("b"))
    it.answers.put("")
    it.answer("")
    assert it.next(2) == [Changed("t", item("a", "2")), deleted("b")]


def test_objects_stay_while_their_definition_is_being_deleted(it: Guarded) -> None:
    for name in KEYS:
        it.guard.put(deleted(name))
    it.asked.get(timeout=WAIT_SECONDS)
    it.answers.put("the definition is being deleted")
    (state,) = it.next()
    assert isinstance(state, SourceState)
    assert (state.contact_ns, state.reason) == (7, "the definition is being deleted; the last state is served")
    it.guard.put(SourceState("t", "watching", 9))
    (state,) = it.next()
    assert isinstance(state, SourceState)
    assert state.contact_ns == 7, "its age grows, though the server answers"

    assert state.missing

    it.guard.put(listed())
    for answer in ("the definition is being deleted", None, "the definition is not installed"):
        it.answer(answer)
    while "not installed" not in getattr(it.next()[0], "reason", ""):
        pass
    it.guard.put(listed("a"))
    it.answer("")
    found = it.until(SourceState("t", "watching", 9))
    assert listed("a") in found, "the list after the definition is there again counts"
    assert not [event for event in found if isinstance(event, Deleted)]


def test_rows_count_as_old_until_a_returned_resource_is_listed(it: Guarded) -> None:
    it.guard.put(deleted("a"))
    it.answer("the definition is being deleted")
    it.answer("")
    assert it.relisted.wait(WAIT_SECONDS)
    it.guard.put(SourceState("t", "listing", 99, "no answer yet"))
    found = it.until(
        SourceState(
            "t",
            "listing",
            7,
            "it is served again and waits for a complete list; no answer yet; the last state is served",
        )
    )
    assert not [event for event in found if isinstance(event, (Deleted, Replaced))]
    it.guard.put(listed("b"))
    it.answers.put("")
    it.until(listed("b"))
    assert it.next() == [SourceState("t", "listing", 99, "no answer yet")]


def test_a_list_of_a_resource_that_is_going_does_not_become_the_first_one(
    new: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    new.guard.put(SourceState("t", "watching", 7))
    new.guard.put(listed("a"))
    new.answer("the definition is being deleted")
    new.until(SourceState("t", "watching", 0, "the definition is being deleted", missing=True))
    assert "no list counts before it is back" in caplog.text
    assert new.guard.count(None) is None
    new.guard.put(listed("b"))
    new.answer("")
    new.until(listed("b"))
    assert new.next() == [SourceState("t", "watching", 7)]


def test_a_deletion_that_comes_during_a_request_waits_for_the_next_one(it: Guarded) -> None:
    """The definition may have begun to go after discovery has answered."""
    it.guard.put(deleted("a"))
    it.asked.get(timeout=WAIT_SECONDS)
    it.guard.put(deleted("b"))
    it.answers.put("")
    assert it.next() == [deleted("a")]
    it.answer("the definition is being deleted")
    (state,) = it.next()
    assert isinstance(state, SourceState)
    assert state.missing
    assert it.guard.count(None) == 2


def test_a_mass_deletion_goes_through_with_few_requests() -> None:
    """20 s long, 100 deletions a second: each is passed on within a second."""
    now = 0.0
    requests: list[float] = []
    deleted_at: dict[ObjectKey, float] = {}
    passed_at: dict[ObjectKey, float] = {}

    class Sink:
        def put(self, event: Event) -> None:
            if isinstance(event, Deleted):
                passed_at[event.key] = now

    def stays() -> str:
        requests.append(now)
        return ""

    guard = DeletionGuard("t", Sink(), stays, lambda: None, clock=lambda: now)
    keys = [ObjectKey("n", f"o{number}") for number in range(2000)]
    guard.put(Replaced("t", tuple(TableObject(key, "", "1", key.name, b"\x01") for key in keys)))
    guard.ask()
    for key in (*keys, *[None] * 200):
        now += 0.01
        if key is not None:
            deleted_at[key] = now
            guard.put(Deleted("t", key))
        guard.ask()
    assert passed_at.keys() == deleted_at.keys()
    assert max(passed_at[key] - deleted_at[key] for key in keys) <= 1.0
    assert passed_at[keys[0]] - deleted_at[keys[0]] <= 0.11, "a single one waits no longer"
    assert len(requests) < 1.5 * 20.0
    assert guard.count(None) == 0


def test_a_failed_request_is_made_again_by_the_next_thread(it: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str | None:
        raise RuntimeError("a defect")

    other = Guarded()
    monkeypatch.setattr(other.guard, "_goes_away", fail)
    other.guard.put(listed("a"))
    with pytest.raises(RuntimeError, match="a defect"):
        other.guard.run(threading.Event())
    monkeypatch.setattr(other.guard, "_goes_away", lambda: "")
    with running(other):
        assert other.next() == [listed("a")]


def test_objects_dropped_by_mistake_are_listed_again(it: Guarded) -> None:
    it.guard.put(deleted("a"))
    it.answer("another API server does not serve it yet")
    it.answer("")
    assert it.relisted.wait(WAIT_SECONDS)


def test_deletions_are_believed_if_discovery_never_answers(it: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletions, "MOST_SECONDS", 0.0)
    it.guard.put(deleted("a"))
    it.asked.get(timeout=WAIT_SECONDS)
    it.answers.put(None)
    assert it.next() == [deleted("a")]


def test_a_shorter_list_waits_and_includes_later_changes(it: Guarded) -> None:
    it.guard.put(listed("a"))
    it.asked.get(timeout=WAIT_SECONDS)
    it.guard.put(Changed("t", item("b", "2")))
    assert it.next() == [Changed("t", item("b", "2"))]
    it.answers.put("")
    assert it.next() == [Replaced("t", (item("a"), item("b", "2")))]


def test_a_list_that_waits_holds_the_newest_state_of_each_object_once(it: Guarded) -> None:
    it.guard.put(listed("a"))
    it.asked.get(timeout=WAIT_SECONDS)
    it.guard.put(Changed("t", item("a", "2")))
    it.guard.put(Changed("t", item("a", "3")))
    assert it.next(2) == [Changed("t", item("a", "2")), Changed("t", item("a", "3"))]
    it.answers.put("")
    assert it.next() == [Replaced("t", (item("a", "3"),))]
