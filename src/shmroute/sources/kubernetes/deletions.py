"""Tells deleted objects from those that go because their CustomResourceDefinition is being deleted.

Used by `TableSource`, between a source and its owner. When a definition is deleted, the API server first deletes every
object and sends a DELETED for each, as if its users had. A table that followed would be empty at once, although nobody
took an object away; it must be served as it was, since the definition may be installed again in a moment.

Discovery tells the two apart: of a resource whose definition is being deleted it lists `deletecollection` and not
`create` (apiextensions-apiserver's `customresource_discovery_controller`), and everybody who is authenticated may read
it. A read-only API of another server lists neither.
So deletions of custom resources, the first list, and lists with fewer objects than before wait until discovery has
been read. A resource that stays away is served as it was last; a complete list after it is there again decides.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from shmroute.backoff import Backoff
from shmroute.sources.base import Changed, Deleted, Replaced, SourceState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shmroute.resources.key import ObjectKey
    from shmroute.resources.registry import Item
    from shmroute.sources.base import Event, Sink

log = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 0.1
"""Seconds from a deletion to the request to discovery that decides it. Discovery follows a definition within 10 ms
(measured on kube-apiserver 1.36); another server of the same cluster may take a little longer."""

SPACING_SECONDS: Final = 0.8
"""Longest time between two requests while deletions go on; it doubles from `SETTLE_SECONDS`. A mass deletion then costs
little more than one request a second, and each deletion is passed on within a second."""

RETRY_SECONDS: Final = 0.5
"""Seconds between two requests while discovery does not answer."""

MOST_SECONDS: Final = 10.0
"""Longest wait of deletions for discovery, in seconds. After it they are believed."""

AWAY_SECONDS: Final = 1.0
"""First wait, before jitter, until a resource whose definition is deleted is asked for again; it doubles."""

AWAY_CAP_SECONDS: Final = 8.0
"""Longest wait, before jitter, until such a resource is asked for again. A new list asks at once."""

RETURNED: Final = "it is served again and waits for a complete list"
"""Reason while the definition is back and what was dropped before has not been listed anew."""


class DeletionGuard:
    """A sink that holds deletions back until `goes_away` has been asked. `run` belongs to a thread of its own.

    Args:
        name: what log lines call the resource.
        sink: gets the events that are believed.
        goes_away: returns why the resource itself is being deleted, "" if it stays, None if that is unknown.
        relist: makes the source list everything again. A complete list follows.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        goes_away: Callable[[], str | None],
        relist: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._sink = sink
        self._goes_away = goes_away
        self._relist = relist
        self._clock = clock
        self._changed = threading.Condition()
        """Guards what follows, and the order in which events reach the sink."""
        self._keys: set[ObjectKey] = set()
        """The objects that the sink has."""
        self._listed = False
        """Whether the sink has a complete list."""
        self._held: dict[ObjectKey, tuple[float, Deleted]] = {}
        """Deletions that wait, each with the time from which a request to discovery decides it."""
        self._held_list: Replaced | None = None
        self._held_list_from = 0.0
        """Time from which a request decides the list that waits."""
        self._later: dict[ObjectKey, Item] = {}
        """Objects that were passed on after the list that waits: it is older."""
        self._due = float("inf")
        """Time of the next request."""
        self._spacing = SETTLE_SECONDS
        self._asked = float("-inf")
        """Time of the newest request."""
        self._away = Backoff(AWAY_SECONDS, AWAY_CAP_SECONDS, clock=clock, dice=random.random)
        self._reason = ""
        """Reason why the resource is away; "" if it is not. Meanwhile its deletions are dropped."""
        self._away_ns = 0
        """Monotonic time at which the source was last in step before that, in nanoseconds; 0: never."""
        self._state: SourceState | None = None

    def count(self, namespace: str | None) -> int | None:
        """Return how many objects of a namespace, or (None) of all, the sink has; None before the first list."""
        with self._changed:
            if not self._listed:
                return None
            return sum(namespace in (None, key.namespace) for key in self._keys)

    def put(self, event: Event) -> None:
        """Take an event of the source. Never waits."""
        with self._changed:
            match event:
                case Replaced():
                    self._held, self._later = {}, {}
                    self._held_list = event
                    first = not self._listed
                    if not (first or self._reason) and self._keys <= {item.key for item in event.items}:
                        self._believe_list(event)
                    else:
                        self._held_list_from = self._hold(0.0 if first or self._reason else SETTLE_SECONDS)
                case Deleted(key=key):
                    self._held[key] = (self._hold(SETTLE_SECONDS), event)
                case Changed(item=item):
                    self._held.pop(item.key, None)
                    self._keys.add(item.key)
                    if self._held_list is not None:
                        self._later[item.key] = item
                    self._sink.put(event)
                case SourceState():
                    self._state = event
                    self._tell()
                case _:
                    self._sink.put(event)

    def run(self, stop: threading.Event) -> None:
        """Ask discovery about what is held back, until `stop` is set and `wake` called."""
        while True:
            with self._changed:
                while not stop.is_set() and (wait := self._due - self._clock()) > 0:
                    self._changed.wait(min(wait, threading.TIMEOUT_MAX))
            if stop.is_set():
                return
            self.ask()

    def ask(self) -> None:
        """Ask discovery once, if a request is due, and act on its answer."""
        with self._changed:
            asked = self._clock()
            if self._due > asked:
                return
            self._due = float("inf")
        try:
            reason = self._goes_away()
        except BaseException:
            with self._changed:  # the thread of `run` is started again, and asks again
                self._due = min(self._due, asked)
            raise
        with self._changed:
            relist = self._answered(reason, asked)
        if relist:
            self._relist()

    def wake(self) -> None:
        """Make `run` check its `stop`."""
        with self._changed:
            self._changed.notify_all()

    # -- inside; the caller holds the lock ------------------------------------------------------------------------

    def _hold(self, seconds: float) -> float:
        """Plan a request in `seconds`, or later if one was made just now. Returns the time from which one decides.

        0 s: plan it at once. While the resource is away, deletions wait for the request that is planned anyway.
        """
        decides = self._clock() + seconds
        if not seconds:
            self._plan(decides)
        elif not self._reason:
            self._plan(max(decides, self._asked + self._spacing))
        return decides

    def _plan(self, at: float) -> None:
        if at < self._due:
            self._due = at
            self._changed.notify_all()

    def _answered(self, reason: str | None, asked: float) -> bool:
        """Take the answer to a request made at `asked`. Returns whether everything must be listed again."""
        busy = asked - self._asked < 2 * self._spacing
        self._spacing = min(2 * self._spacing, SPACING_SECONDS) if busy else SETTLE_SECONDS
        self._asked = asked
        if reason is None and self._reason:
            self._plan(asked + self._away.failed())
            return False
        if reason is None and asked - self._oldest() < MOST_SECONDS:
            self._plan(asked + RETRY_SECONDS)
            return False
        if reason:
            self._drop(reason)
            self._plan(asked + self._away.failed())
            return False
        if self._reason:
            return self._returned(asked)
        self._stays(asked)
        return False

    def _oldest(self) -> float:
        """Return the time from which the oldest of what is held could have been decided."""
        listed = (self._held_list_from,) if self._held_list is not None else ()
        return min((*listed, *(decides for decides, _ in self._held.values())), default=float("inf"))

    def _stays(self, asked: float) -> None:
        """Pass on what a request made at `asked` decides; the rest waits for the next one."""
        if self._held_list is not None and self._held_list_from <= asked:
            self._believe_list(self._held_list)
        if self._held_list is None:
            self._believe(key for key, (decides, _) in tuple(self._held.items()) if decides <= asked)
        if (oldest := self._oldest()) < float("inf"):
            self._plan(max(oldest, asked + self._spacing))

    def _returned(self, asked: float) -> bool:
        """Take a list made since the resource is there again; ask for one if there is none."""
        if self._held_list is not None and self._held_list_from <= asked:
            log.info("%s: it is served again, objects: %d", self._name, len(self._held_list.items))
            self._reason = ""
            self._away.reset()
            self._believe_list(self._held_list)
            self._stays(asked)
            return False
        first = self._reason != RETURNED
        self._reason = RETURNED
        self._held = {}
        self._plan(asked + self._away.failed())
        self._tell()
        return first

    def _believe_list(self, event: Replaced) -> None:
        merged = {item.key: item for item in event.items} | self._later
        if self._later:
            event = msgspec.structs.replace(event, items=tuple(merged.values()))
        self._keys = set(merged)
        self._held_list, self._later, self._listed = None, {}, True
        self._sink.put(event)
        self._tell()

    def _believe(self, keys: Iterable[ObjectKey]) -> None:
        for key in keys:
            self._keys.discard(key)
            self._sink.put(self._held.pop(key)[1])

    def _drop(self, reason: str) -> None:
        """Forget what is held back, since the resource itself goes."""
        if not self._reason:
            self._away_ns = self._state.contact_ns if self._listed and self._state is not None else 0
            log.warning("%s: %s; %s", self._name, reason, self._served())
        self._reason = reason
        self._held, self._held_list, self._later = {}, None, {}
        self._tell()

    def _served(self) -> str:
        """Return what is served while the resource is away, in words."""
        if not self._listed:
            return "no list counts before it is back"
        age = time.monotonic() - self._away_ns / 1e9
        return f"the last state is served (objects: {len(self._keys)}, in step {age:.1f} s ago)"

    def _tell(self) -> None:
        """Report the source's state: not in step before a list is believed, or while the resource is away."""
        state = self._state
        if state is None:
            return
        if self._reason:
            own = state.reason if self._reason == RETURNED else ""
            reason = "; ".join(filter(None, (self._reason, own, "the last state is served" * self._listed)))
            missing = self._reason != RETURNED
            state = msgspec.structs.replace(state, contact_ns=self._away_ns, reason=reason, missing=missing)
        elif not self._listed:
            state = msgspec.structs.replace(state, contact_ns=0)
        self._sink.put(state)
