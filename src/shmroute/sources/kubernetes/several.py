"""One kind of objects of several namespaces, as one `Source`: one list and watch for each namespace.

Created by the watcher if `-n` names several. One filtered watch of all namespaces would need the right to read
every namespace, and would get every namespace's events; several watches cost an API server less.

It merges the events of the namespaces' sources: it sends the first complete list once every namespace has one, and
its state is that of the worst namespace.
"""

from __future__ import annotations

import threading
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from shmroute.sources.base import AuditResult, Changed, Deleted, Replaced, Resync, SourceState
from shmroute.sources.threads import SupervisedThreads, ThreadStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shmroute.resources.key import ObjectKey
    from shmroute.resources.registry import Item, WatchedKind
    from shmroute.sources.base import Event, Phase, Sink
    from shmroute.sources.kubernetes.source import KubernetesSource

WORST: tuple[Phase, ...] = ("backing-off", "starting", "listing", "watching", "stopped")

LOOK_SECONDS = 0.5
"""Seconds between two checks that each namespace's source still runs; also the longest wait for one to stop."""


class SeveralNamespaces:
    """Runs one source for each namespace, all of one kind. `run` is for one thread, once."""

    def __init__(self, sources: Mapping[str, KubernetesSource]) -> None:
        first = next(iter(sources.values()))
        self.kinds: tuple[WatchedKind, ...] = first.kinds
        self._sources = dict(sources)
        self._lock = threading.Lock()
        """Guards the fields below, and the order in which events reach the sink."""
        self._sink: Sink | None = None
        self._waiting = set(sources)
        """Namespaces that have no complete list yet."""
        self._early: dict[ObjectKey, Item] = {}
        """Objects of the other namespaces, kept until `_waiting` is empty."""
        self._keys: dict[str, set[ObjectKey]] = {namespace: set() for namespace in sources}
        self._states: dict[str, SourceState] = {}

    @property
    def restarts(self) -> Mapping[str, int]:
        """Number of restarts of lists and watches in all namespaces, by reason."""
        total: Counter[str] = Counter()
        for source in self._sources.values():
            total.update(dict(source.restarts))
        return total

    def run(self, sink: Sink, stop: threading.Event) -> None:
        """List and watch until `stop` is set. Raises `RuntimeError` if a namespace's source ends before that."""
        self._sink = sink
        threads = SupervisedThreads()
        for namespace, source in self._sources.items():
            follow = partial(source.run, _Part(self, namespace), stop)
            threads.start(f"source of {namespace}", follow, restartable=False)
        while not stop.wait(LOOK_SECONDS):
            threads.check()
            if threads.lost:
                raise RuntimeError(threads.lost)
        threads.join(LOOK_SECONDS)
        with self._lock:
            self._sink = None

    def threads(self) -> tuple[ThreadStatus, ...]:
        """Return the helper threads of all namespaces, those of one name as one."""
        merged: dict[str, ThreadStatus] = {}
        for each in (status for source in self._sources.values() for status in source.threads()):
            so_far = merged.get(each.name, each)
            restarts = each.restarts + (so_far.restarts if each.name in merged else 0)
            merged[each.name] = ThreadStatus(
                each.name, each.alive and so_far.alive, restarts, each.problem or so_far.problem
            )
        return tuple(merged.values())

    def audit_now(self) -> None:
        """Begin an audit of each namespace."""
        for source in self._sources.values():
            source.audit_now()

    def relist(self, reason: str) -> None:
        """List everything again, in each namespace; one complete list follows, as at the beginning."""
        with self._lock:
            self._waiting, self._early = set(self._sources), {}
        for source in self._sources.values():
            source.relist(reason)

    def take(self, namespace: str, event: Event) -> None:
        """Take an event of the source of `namespace`."""
        with self._lock:
            match event:
                case Replaced(items=items, received_ns=received_ns):
                    self._replace(namespace, items, received_ns)
                case Changed(item=item):
                    self._keys[namespace].add(item.key)
                    if self._waiting:
                        self._early[item.key] = item
                    else:
                        self._put(event)
                case Deleted(key=key):
                    self._keys[namespace].discard(key)
                    self._early.pop(key, None)
                    if not self._waiting:
                        self._put(event)
                case SourceState():
                    self._states[namespace] = event
                    self._put(self._state())
                case Resync():
                    if not self._waiting and namespace == next(iter(self._sources)):
                        self._put(event)
                case AuditResult() | _:
                    self._put(event)

    def _put(self, event: Event) -> None:
        if self._sink is not None:
            self._sink.put(event)

    def _replace(self, namespace: str, items: tuple[Item, ...], received_ns: int) -> None:
        """Take one namespace's complete list: a part of the first list of all, or the changes since its last list."""
        name = self.kinds[0].name
        before, self._keys[namespace] = self._keys[namespace], {item.key for item in items}
        if self._waiting:
            for key in before:
                self._early.pop(key, None)
            self._early |= {item.key: item for item in items}
            self._waiting.discard(namespace)
            if not self._waiting:
                self._put(Replaced(name, tuple(self._early.values()), received_ns))
                self._early = {}
            return
        for key in before - self._keys[namespace]:
            self._put(Deleted(name, key, received_ns))
        for item in items:  # the tables ignore unchanged objects
            self._put(Changed(name, item, received_ns))

    def _state(self) -> SourceState:
        states = self._states
        told = states.values()
        reasons = [f"{namespace}: {state.reason}" for namespace, state in states.items() if state.reason]
        complete = len(states) == len(self._sources)
        return SourceState(
            self.kinds[0].name,
            min((state.phase for state in told), key=WORST.index) if complete else "starting",
            min(state.contact_ns for state in told) if complete else 0,
            "; ".join(reasons),
            sum(state.restarts for state in told),
            sum(state.lists for state in told),
            max(state.backoff_seconds for state in told),
            min(state.confirmed_ns for state in told) if complete else 0,
            any(state.missing for state in told),
        )


class _Part:
    """The sink of one namespace's source."""

    def __init__(self, whole: SeveralNamespaces, namespace: str) -> None:
        self._whole = whole
        self._namespace = namespace

    def put(self, event: Event) -> None:
        self._whole.take(self._namespace, event)
