"""Deletions caused by a definition's deletion are distinguished from users' deletions."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmroute.resources.key import ObjectKey
from shmroute.resources.table_parser import TableObject
from shmroute.sources.base import Changed, Deleted, Event, Replaced, SourceState
from shmroute.sources.kubernetes import deletions
from shmroute.sources.kubernetes.deletions import DeletionGuard

if TYPE_CHECKING:
    from _typeshed import SupportsLenAndGetItem

T = TypeVar("T")
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

    def lists_again(self, *names: str) -> None:
        """Send a list, and answer twice that the resource is there: a waiting request may be older than the list."""
        self.guard.put(listed(*names))
        self.answers.put("")
        self.answers.put("")

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
    it.lists_again("a")
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
    it.lists_again("b")
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
    new.lists_again("b")
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


class Calm(random.Random):
    """Dice by which nothing else happens."""

    def random(self) -> float:
        return 0.85

    def choice(self, seq: SupportsLenAndGetItem[T]) -> T:
        return seq[0]


class World:
    """A server whose definition comes and goes, a guard over it, and a clock."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.now = 100.0
        self.defined: Literal["yes", "going", "no"] = "yes"
        self.objects: dict[ObjectKey, TableObject] = {}
        self.rows: dict[ObjectKey, TableObject] = {}
        self.kept: set[ObjectKey] = set()
        """Rows of objects that existed when the definition went."""
        self.relist = True
        self.versions = 0
        self.guard = DeletionGuard("t", self, self.answer, self.wish, clock=lambda: self.now)
        self.guard.put(SourceState("t", "watching", 1))

    def put(self, event: Event) -> None:
        match event:
            case Replaced(items=items):
                self.rows = {each.key: each for each in items if isinstance(each, TableObject)}
            case Changed(item=TableObject() as changed):
                self.rows[changed.key] = changed
            case Deleted(key=key):
                self.rows.pop(key, None)

    def wish(self) -> None:
        self.relist = True

    def answer(self) -> str | None:
        """Answer as discovery; things may happen while the answer is on its way."""
        answer = {"yes": "", "going": "it is being deleted", "no": "it is not installed"}[self.defined]
        for _ in range(self.dice.choice([0, 0, 0, 1, 3, 5])):
            self.step()
        return None if self.dice.random() < 0.1 else answer

    def list(self) -> None:
        self.relist = False
        self.guard.put(Replaced("t", tuple(self.objects.values())))

    def delete(self, key: ObjectKey) -> None:
        del self.objects[key]
        self.guard.put(Deleted("t", key))

    def step(self) -> None:
        """One event of the server, as a watch or a list shows it."""
        chance, key = self.dice.random(), KEYS[self.dice.choice("abc")]
        if self.defined == "no":
            if chance < 0.1:
                self.defined, self.relist = "yes", True
        elif self.defined == "going":
            if self.objects:
                self.delete(self.dice.choice(list(self.objects)))
            elif chance < 0.3:
                self.defined = "no"
        elif self.relist or chance < 0.1:
            self.list()
        elif chance < 0.5:
            self.versions += 1
            self.objects[key] = item(key.name, str(self.versions))
            self.guard.put(Changed("t", self.objects[key]))
        elif chance < 0.8 and key in self.objects:
            self.delete(key)
        elif chance > 0.9:
            self.defined, self.kept = "going", self.objects.keys() & self.rows.keys()


@given(st.integers(0, 1 << 32))
def test_rows_outlive_a_definition_and_equal_the_server_at_the_end(seed: int) -> None:
    dice = random.Random(seed)
    world = World(dice)
    for _ in range(300):
        if dice.random() < 0.5:
            world.step()
        else:
            world.now += dice.choice([0.01, 0.05, 0.2, 1.0, 3.0])
        world.guard.ask()
        if world.defined != "yes":
            assert world.kept <= world.rows.keys(), "no row goes while the definition is away"
    if world.defined != "yes":
        world.defined, world.objects, world.relist = "yes", {}, True
    world.dice = Calm()
    for _ in range(100):
        world.now += 1.0
        if world.relist:
            world.list()
        world.guard.ask()
    assert world.rows == world.objects
