"""Compare what was handed out with a fresh list of the server, and tell the difference.

Run by `shmroute.sources.kubernetes.source` in a thread of its own, now and then and on demand. It repairs nothing
itself and hands out no object: that is the reflector's.

A list is a moment, and the watch goes on while it is made. So a key that differs is only a candidate; it counts
when no event has touched it from before the list until a grace after it, while the watch was open: its event
is not late, it was lost.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shmroute.errors import ApiError
from shmroute.sources.base import AuditResult
from shmroute.sources.kubernetes.wire import Garbled, decode_identities

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from shmroute.kube.connection import Abort
    from shmroute.resources.key import ObjectKey
    from shmroute.sources.base import Resource
    from shmroute.sources.kubernetes.api import ResourceApi
    from shmroute.sources.kubernetes.sync_state import Ledger
    from shmroute.sources.kubernetes.timing import Timing

__all__ = ["audit"]

KEYS_TOLD = 10
"""Of the differing keys; enough to look into it."""


def audit(
    resource: Resource,
    api: ResourceApi,
    ledger: Ledger,
    timing: Timing,
    watching: Callable[[], bool],
    stop: threading.Event,
    abort: Abort,
) -> AuditResult:
    """One audit, a quorum list and the wait for stragglers included. Never raises for what the server does."""
    began = time.monotonic()
    listed: dict[ObjectKey, str] = {}

    def result(differing: set[ObjectKey] | None = None, error: str = "") -> AuditResult:
        told = tuple(sorted(differing or ())[:KEYS_TOLD])
        seconds = time.monotonic() - began
        return AuditResult(resource, len(listed), len(differing or ()), told, seconds, error)

    if not watching():
        return result(error="the source is not watching just now")
    with ledger.audited() as view:
        token = ""
        try:
            while True:
                silence = timing.list_silence_seconds
                body = api.page("", token, silence_seconds=silence, abort=abort)
                _, token, versions = decode_identities(api.kind, body, api.what)
                listed |= versions
                if not token:
                    break
        except (ApiError, Garbled) as error:
            return result(error=str(error))
        candidates = ledger.differences(listed)
        if candidates and stop.wait(timing.audit_grace_seconds):
            return result(error="the source is stopping")
        if view.superseded:
            return result(error="a whole new list was handed out meanwhile")
        if candidates and not watching():
            return result(error="the watch was lost meanwhile")
        return result(view.unexplained(candidates))
