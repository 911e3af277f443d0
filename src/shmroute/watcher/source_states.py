"""What each source last reported: whether it follows its server, when it was last in step, and its audits.

The owner thread passes the sources' reports on to here, and asks for the status and for the time of the heartbeat's
contact. A declared table that has not been in step yet counts from the former contact: that of the watcher before this
one, of the checkpoint, or of the table before it was declared anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import msgspec

from shmroute.resources.registry import WatchedKind
from shmroute.resources.table import TableKind
from shmroute.sources.base import AuditResult, SourceState
from shmroute.watcher.status import AuditStatus, decode_status


class SourceStates:
    """States and audits by resource. Used by the owner thread alone."""

    def __init__(self) -> None:
        self._states: dict[str, SourceState] = {}
        self._audits: dict[str, AuditStatus] = {}
        self._former_contacts: dict[str, int] = {}
        """Resource -> monotonic time of its former contact, in nanoseconds; 0: never."""

    @property
    def audits(self) -> tuple[AuditStatus, ...]:
        """The audits of all resources that have had one."""
        return tuple(self._audits.values())

    def set_former_contacts(self, contacts: Mapping[str, int]) -> None:
        """Set when each resource was last in step before this watcher, in monotonic nanoseconds; 0: never."""
        self._former_contacts = dict(contacts)

    def report(self, state: SourceState) -> None:
        """Store a source's newest state."""
        self._states[state.resource] = state

    def count_audit(self, result: AuditResult) -> None:
        """Add one audit to the counts of its resource."""
        before = self._audits.get(result.resource)
        count, differences = (before.count, before.differences) if before else (0, 0)
        if not result.error:
            count, differences = count + 1, differences + result.differences
        self._audits[result.resource] = AuditStatus(result.resource, count, differences, time.time(), result.error)

    def drop(self, resource: str, *, keep_contact: bool) -> None:
        """Forget a resource whose source ends. `keep_contact`: its next source counts from its contact."""
        state = self._states.pop(resource, None)
        self._audits.pop(resource, None)
        if not keep_contact:
            self._former_contacts.pop(resource, None)
        elif state is not None and state.contact_ns:
            self._former_contacts[resource] = state.contact_ns

    def contact_ns(self, kinds: Iterable[WatchedKind]) -> int:
        """Return when the sources of all awaited kinds were last in step, in monotonic nanoseconds; 0 if never."""
        states = (self._states.get(kind.name) for kind in kinds if kind.awaited)
        return min((state.contact_ns if state is not None else 0 for state in states), default=0)

    def of(self, kinds: Iterable[WatchedKind]) -> tuple[SourceState, ...]:
        """Return the states of these kinds' sources, as far as they have one."""
        return tuple(state for kind in kinds if (state := self._state(kind)) is not None)

    def _state(self, kind: WatchedKind) -> SourceState | None:
        state = self._states.get(kind.name)
        former = self._former_contacts.get(kind.name, 0) if isinstance(kind, TableKind) else 0
        if not former or (state is not None and state.contact_ns):
            return state
        state = state or SourceState(kind.name, "starting", 0)
        return msgspec.structs.replace(state, contact_ns=former)


def contacts_in(page: bytes | None) -> dict[str, int]:
    """Return when each source in a status page was last in step, in monotonic nanoseconds; 0: never."""
    status = decode_status(page)
    return {state.resource: state.contact_ns for state in status.sources} if status is not None else {}
