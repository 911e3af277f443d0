"""A Kubernetes source at work in a thread, and everything it says.

    with Following(connection) as follow:
        follow.wait(lambda: follow.names == {"one"})

Every wait is bounded; leaving the block stops the source and fails where it does not stop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from shmroute.kube.connection import Connection
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import APPMODELS, Item, WatchedKind
from shmroute.sources.base import (
    AuditResult,
    Changed,
    Deleted,
    Event,
    Phase,
    Replaced,
    Resync,
    SourceState,
)
from shmroute.sources.kubernetes.source import KubernetesSource
from shmroute.sources.kubernetes.timing import Timing
from tests.apiserver import ApiServer, Settings
from tests.apiserver.watches import Watch

__all__ = ["CALM", "LIVELY", "PATIENT", "WAIT_SECONDS", "Following", "fast_settings"]

WAIT_SECONDS = 30.0
"""Longest wait in seconds: far longer than any step, so that a busy machine fails no test."""

CALM = Timing(
    short_watch_seconds=0.05,
    answer_seconds=10.0,
    list_silence_seconds=10.0,
    backoff_first_seconds=0.02,
    backoff_cap_seconds=0.1,
    forbidden_seconds=0.2,
    unreachable_cap_seconds=0.1,
    starting_cap_seconds=0.1,
    contact_report_seconds=0.0,
    stop_seconds=2.0,
    probe_seconds=0.0,
    compare_spread_seconds=0.05,
    compare_spacing_seconds=0.0,
    compare_retry_seconds=0.05,
    audit_grace_seconds=0.3,
)
"""Short waits, without probes and audits."""

LIVELY = msgspec.structs.replace(
    CALM,
    probe_seconds=0.15,
    confirm_seconds=0.0,
    bookmark_seconds=0.1,
    probe_timeout_seconds=10.0,
    probe_retry_seconds=0.05,
    grace_seconds=0.5,
)
"""Short waits with probes that ask the storage each time, for a server of `fast_settings`."""

PATIENT = msgspec.structs.replace(LIVELY, grace_seconds=10.0)
"""The same with longer waits, so that even on a busy machine no watch counts as silent."""

FASTER = 10

T = TypeVar("T")


def scaled(probe_seconds: float, by: float = FASTER) -> Timing:
    """Return what a cluster gets with `--probe-seconds`, every wait shorter by that factor, for a server of
    `fast_settings`.

    A list has its real limits, so that a busy machine is not taken for a dead server.
    """
    real = Timing(probe_seconds=probe_seconds)
    waits = (
        "answer_seconds",
        "backoff_first_seconds",
        "backoff_cap_seconds",
        "unreachable_cap_seconds",
        "starting_cap_seconds",
        "probe_seconds",
        "confirm_seconds",
        "probe_timeout_seconds",
        "probe_retry_seconds",
        "bookmark_seconds",
        "grace_seconds",
        "compare_spread_seconds",
        "compare_spacing_seconds",
        "compare_retry_seconds",
        "audit_seconds",
        "audit_grace_seconds",
    )
    shorter = {name: getattr(real, name) / by for name in waits}
    low, high = real.watch_seconds
    return msgspec.structs.replace(
        real, **shorter, watch_seconds=(low, high), contact_report_seconds=0.0, short_watch_seconds=0.05
    )


def fast_settings() -> Settings:
    """Return a server on whose clock a peek's 3 s are 0.3."""
    return Settings(clock=lambda: time.monotonic() * FASTER)


class Following:
    """Runs the source, and keeps its events and the objects by those events."""

    def __init__(
        self,
        connection: Connection,
        kind: WatchedKind = APPMODELS,
        *,
        namespace: str | None = None,
        selector: str = "",
        resync_seconds: float = 0.0,
        timing: Timing = CALM,
    ) -> None:
        self.source = KubernetesSource(
            connection,
            kind,
            namespace=namespace,
            selector=selector,
            resync_seconds=resync_seconds,
            timing=timing,
        )
        self.events: list[Event] = []
        self.items: dict[ObjectKey, Item] = {}
        self.state: SourceState | None = None
        self.phases: list[Phase] = []
        self.said = threading.Condition()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.source.run, args=(self, self.stop), daemon=True)

    def put(self, event: Event) -> None:
        with self.said:
            self.events.append(event)
            match event:
                case Replaced(items=items):
                    self.items = {item.key: item for item in items}
                case Changed(item=item):
                    self.items[item.key] = item
                case Deleted(key=key):
                    self.items.pop(key, None)
                case SourceState():
                    self.state = event
                    if not self.phases or self.phases[-1] != event.phase:
                        self.phases.append(event.phase)
                case AuditResult() | Resync() | _:
                    pass
            self.said.notify_all()

    @property
    def names(self) -> set[str]:
        return {key.name for key in self.items}

    @property
    def versions(self) -> dict[ObjectKey, str]:
        return {key: item.resource_version for key, item in self.items.items()}

    @property
    def reason(self) -> str:
        return self.state.reason if self.state else ""

    @property
    def contact_ns(self) -> int:
        return self.state.contact_ns if self.state else 0

    def of(self, kind: type[T]) -> list[T]:
        """Return the events of one kind so far, in order."""
        with self.said:
            return [event for event in self.events if isinstance(event, kind)]

    def wait(self, true: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
        """Wait until a condition holds; asked again whenever something was said, and now and then."""
        deadline = time.monotonic() + seconds
        with self.said:
            while not true():
                if time.monotonic() > deadline:
                    last = [event for event in self.events if isinstance(event, SourceState)][-3:]
                    raise AssertionError(f"not so within {seconds} s; {self.source.stats}; {last}")
                self.said.wait(0.02)

    def wait_synced(self) -> None:
        """Wait until a watch follows a list."""
        self.wait(lambda: bool(self.phases) and self.phases[-1] == "watching")

    def wait_watched(self, api: ApiServer) -> Watch:
        """Wait until the test server, too, sees one watch and no streaming list any more; returns its side of it."""
        self.wait_synced()
        api.wait_watched()
        return api.watches.open[0]

    def wait_probes(self, more: int, seconds: float = WAIT_SECONDS) -> None:
        """Wait until `count` more probes have been answered."""
        target = self.source.stats.probes + more
        self.wait(lambda: self.source.stats.probes >= target, seconds)

    def wait_contact(self, after_ns: int, seconds: float = WAIT_SECONDS) -> None:
        """Wait until we are known to have been in step after that time."""
        self.wait(lambda: self.contact_ns > after_ns, seconds)

    def wait_replaced(self, count: int) -> None:
        """Wait until `count` complete lists have been sent."""
        self.wait(lambda: len(self.of(Replaced)) >= count)

    def wait_for(self, api: ApiServer, resource: str = "appmodels", seconds: float = WAIT_SECONDS) -> None:
        """Wait until we hold what the server does."""
        self.wait(lambda: self.versions == stored(api, resource), seconds)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        self.thread.join(WAIT_SECONDS)
        if error is None:
            assert not self.thread.is_alive(), "the source did not stop"


def stored(api: ApiServer, resource: str = "appmodels") -> dict[ObjectKey, str]:
    """Return what a test server holds: key -> resourceVersion."""
    return {
        ObjectKey(each["metadata"]["namespace"], each["metadata"]["name"]): each["metadata"]["resourceVersion"]
        for each in api.list(resource)
    }
