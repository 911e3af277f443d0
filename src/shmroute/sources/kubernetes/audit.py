"""Compare the objects that a source has sent with a list of the server, and report the differences.

Run by `shmroute.sources.kubernetes.source` in its own thread, periodically and on demand (the audit, by a quorum
read), and by the probe's thread after a broken connection (from the server's cache). It repairs nothing and sends
no object: that is the reflector's task. A list of metadata is enough: uid and resourceVersion are compared.

A list shows one moment, and the watch continues meanwhile. So a key that differs is only a candidate. It counts
if no event touched it from before the list until a grace period after it, while the watch was open: its event
is not late, it was lost.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shmroute.errors import ApiError
from shmroute.sources.base import AuditResult
from shmroute.sources.kubernetes.wire import Garbled

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from shmroute.kube.abort import Abort
    from shmroute.resources.key import ObjectKey
    from shmroute.sources.kubernetes.api import ResourceApi
    from shmroute.sources.kubernetes.sync_state import SyncState
    from shmroute.sources.kubernetes.timing import Timing

MAX_REPORTED_KEYS = 10
"""Maximum number of differing keys that are reported: enough to investigate."""


def audit(
    api: ResourceApi,
    sync: SyncState,
    timing: Timing,
    watching: Callable[[], bool],
    stop: threading.Event,
    abort: Abort,
) -> AuditResult:
    """Run one audit: a quorum list and the wait for late events. Never raises for a failure of the server."""
    began = time.monotonic()
    checked = 0
    differing: set[ObjectKey] = set()
    problem = ""
    if not watching():
        problem = "the source is not watching just now"
    else:
        try:
            checked, differing, problem = compare(api, sync, timing, "", watching, stop, abort)
        except (ApiError, Garbled) as error:
            problem = str(error)
    told = tuple(sorted(differing)[:MAX_REPORTED_KEYS])
    return AuditResult(api.kind.name, checked, len(differing), told, time.monotonic() - began, problem)


def compare(
    api: ResourceApi,
    sync: SyncState,
    timing: Timing,
    resource_version: str,
    watching: Callable[[], bool],
    stop: threading.Event,
    abort: Abort,
) -> tuple[int, set[ObjectKey], str]:
    """Compare with the list at `resource_version` (see `ResourceApi.page`).

    Returns the number of listed objects, the keys that differ, and the reason why the result is void, "" if it counts.
    Raises `ApiError` and `Garbled` if the server does not answer with a list.
    """
    with sync.viewed() as view:
        _, listed = api.identities(resource_version, abort=abort)
        candidates = sync.differences(listed)
        if candidates and stop.wait(timing.audit_grace_seconds):
            return len(listed), set(), "the source is stopping"
        if view.superseded:
            return len(listed), set(), "a whole new list was handed out meanwhile"
        if candidates and not watching():
            return len(listed), set(), "the watch was lost meanwhile"
        return len(listed), view.unexplained(candidates), ""
