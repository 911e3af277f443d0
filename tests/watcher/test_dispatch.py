"""Handlers are called in threads of their own, in order, once for each object, even if they fail or hang."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from shmroute.resources.appmodel import AppModel
from shmroute.tables import Announcement, Handler
from shmroute.watcher.dispatch import Dispatcher
from tests.watcher.running import WAIT_SECONDS, appmodel, wait_for

Call = tuple[str, str | None, str | None]


class Noting:
    """A handler that records its calls and can be made to wait."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.threads: set[str] = set()
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.go_on.set()

    def on_add(self, appmodel: AppModel) -> None:
        self._note("add", None, appmodel)

    def on_update(self, old: AppModel, new: AppModel) -> None:
        self._note("update", old, new)

    def on_delete(self, appmodel: AppModel) -> None:
        self._note("delete", appmodel, None)

    def _note(self, kind: str, old: AppModel | None, new: AppModel | None) -> None:
        self.threads.add(threading.current_thread().name)
        self.calls.append((kind, old.version if old else None, new.version if new else None))
        self.entered.release()
        assert self.go_on.wait(WAIT_SECONDS)

    def held(self) -> None:
        """Wait until it is at work and held up."""
        assert self.entered.acquire(timeout=WAIT_SECONDS)


class Raising:
    def on_add(self, appmodel: AppModel) -> None:
        raise RuntimeError("no")

    def on_update(self, old: AppModel, new: AppModel) -> None:
        raise SystemError("no")

    def on_delete(self, appmodel: AppModel) -> None:
        raise ValueError("no")


@contextmanager
def dispatching(handler: Handler) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(handler)
    thread = running(dispatcher)
    try:
        yield dispatcher
        assert thread.is_alive()
    finally:
        dispatcher.stop()
        thread.join(WAIT_SECONDS)


def running(dispatcher: Dispatcher) -> threading.Thread:
    thread = threading.Thread(target=dispatcher.run, name=dispatcher.name, daemon=True)
    thread.start()
    return thread


def add(name: str = "one", version: str = "v1") -> Announcement:
    return Announcement("add", None, appmodel(name, version=version))


def update(old: str, new: str, name: str = "one") -> Announcement:
    return Announcement("update", appmodel(name, version=old), appmodel(name, version=new))


def delete(old: str, name: str = "one") -> Announcement:
    return Announcement("delete", appmodel(name, version=old), None)


def test_announcements_come_in_order_in_a_thread_of_their_own() -> None:
    handler = Noting()
    with dispatching(handler) as dispatcher:
        for announcement in (add(), update("v1", "v2"), delete("v2")):
            dispatcher.put([announcement])
            handler.held()
    assert handler.calls == [("add", None, "v1"), ("update", "v1", "v2"), ("delete", "v2", None)]
    assert handler.threads == {"handler Noting"}


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    ("meanwhile", "told"),
    [
        ([add(), update("v1", "v2"), update("v2", "v3")], [("add", None, "v3")]),
        ([update("v1", "v2"), update("v2", "v3")], [("update", "v1", "v3")]),
        ([add(), delete("v1")], []),
        ([update("v1", "v2"), delete("v2")], [("delete", "v1", None)]),
        ([delete("v1"), add(version="v2")], [("update", "v1", "v2")]),
        ([delete("v1"), add(version="v2"), delete("v2")], [("delete", "v1", None)]),
    ],
)
def test_changes_before_a_handlers_call_are_merged(meanwhile: Sequence[Announcement], told: list[Call]) -> None:
    handler = Noting()
    with dispatching(handler) as dispatcher:
        handler.go_on.clear()
        dispatcher.put([add("first", "first")])
        handler.held()
        for announcement in meanwhile:
            dispatcher.put([announcement])
        dispatcher.put([add("last", "last")])
        handler.go_on.set()
        wait_for(lambda: handler.calls[-1] == ("add", None, "last"))
    assert handler.calls[1:-1] == told


@pytest.mark.fault(21)
def test_a_hanging_handler_delays_no_other_and_its_queue_stays_bounded() -> None:
    handler = Noting()
    dispatcher = Dispatcher(handler)
    thread = running(dispatcher)
    handler.go_on.clear()
    dispatcher.put([add("first")])
    handler.held()
    for number in range(10_000):
        dispatcher.put([update(f"v{number}", f"v{number + 1}")])
    assert len(dispatcher._waiting) == 1

    dispatcher.stop()  # returns although the handler does not
    handler.go_on.set()
    wait_for(lambda: not thread.is_alive())
    assert len(handler.calls) == 1, "nobody is called after the end"


class Exiting(Noting):
    def on_update(self, old: AppModel, new: AppModel) -> None:
        raise SystemExit(3)


@pytest.mark.parametrize("handler", [Raising(), Exiting()], ids=["exceptions", "exit"])
def test_a_handler_that_raises_is_counted_and_called_again(handler: Handler, caplog: pytest.LogCaptureFixture) -> None:
    failing = 3 if isinstance(handler, Raising) else 1
    with dispatching(handler) as dispatcher:
        for announcement in (add(), update("v1", "v2"), delete("v2")):
            dispatcher.put([announcement])
            wait_for(lambda: not dispatcher._waiting)
        wait_for(lambda: dispatcher.failures == failing)
    assert caplog.text.count("failed for AppModel test/one") == failing
