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
        self.guard = DeletionGuard(self, self.ask, self.relisted.set)
        self.guard.put(SourceState("t", "watching", 7))
        self.guard.put(listed("a", "b", "c"))
        assert self.next(3) == [SourceState("t", "watching", 7), listed("a", "b", "c"), SourceState("t", "watching", 7)]

    def put(self, event: Event) -> None:
        self.events.put(event)

    def ask(self) -> str | None:
        self.asked.put(None)
        return self.answers.get(timeout=WAIT_SECONDS)

    def next(self, count: int = 1) -> list[Event]:
        return [self.events.get(timeout=WAIT_SECONDS) for _ in range(count)]


@pytest.fixture
def it(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    for name in ("SETTLE_SECONDS", "RETRY_SECONDS", "AWAY_SECONDS"):
        monkeypatch.setattr(deletions, name, 0.001)
    with running(Guarded()) as guarded:
        yield guarded


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

    it.guard.put(listed())
    for answer in ("the definition is being deleted", None, "the definition is not installed"):
        it.asked.get(timeout=WAIT_SECONDS)
        it.answers.put(answer)
    while "not installed" not in getattr(it.next()[0], "reason", ""):
        pass
    it.guard.put(listed("a"))
    it.asked.get(timeout=WAIT_SECONDS)
    it.answers.put("")
    found = list(iter(lambda: it.next()[0], SourceState("t", "watching", 9)))
    assert listed("a") in found, "the list after the definition is there again counts"
    assert not [event for event in found if isinstance(event, Deleted)]


def test_objects_dropped_by_mistake_are_listed_again(it: Guarded) -> None:
    it.guard.put(deleted("a"))
    it.asked.get(timeout=WAIT_SECONDS)
    it.answers.put("another API server does not serve it yet")
    it.asked.get(timeout=WAIT_SECONDS)
    it.answers.put("")
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
