"""A watcher's status as one value: shown by `shmroute status`, `/healthz`, `/readyz` and `/metrics`.

The owner thread writes it into the control block about once a second, where readers find it without asking the watcher.
"""

from __future__ import annotations

from typing import Final

import msgspec

from shmroute.rows import SettingsRow
from shmroute.sources.base import SourceState
from shmroute.sources.threads import ThreadStatus

HEARTBEAT_SECONDS: Final = 1.0
"""Seconds between two heartbeats of a watcher. The owner's loop turns at least this often."""

FROZEN_SECONDS: Final = 5 * HEARTBEAT_SECONDS
"""Seconds without a heartbeat before a watcher counts as dead or frozen."""

ENDED: Final = "ended"
"""Role that a watcher writes at an orderly end."""


class MetadataStatus(msgspec.Struct, frozen=True):
    """Counters of the metadata loader since the watcher started."""

    store: str
    """URL of the store, without credentials."""
    reads: int
    """Keys read."""
    read_commands: int
    skipped_by_version: int
    failures: int
    pending: int
    """Keys that will be read again."""
    problem: str = ""
    """Reason why the store cannot be read; "" while it can."""
    key_template: str = ""
    """Template of a key, with placeholders for namespace, app, model and version."""


class AuditStatus(msgspec.Struct, frozen=True):
    """Results of the audits of one resource since the watcher started."""

    resource: str
    count: int
    """Audits completed."""
    differences: int
    """Sum of objects found different; must be 0."""
    newest: float
    """Unix seconds of the newest audit, completed or not."""
    problem: str = ""
    """Reason why the newest audit failed; "" if it succeeded."""


class Status(msgspec.Struct, frozen=True):
    """A watcher's state. Times are Unix seconds; counters count from the watcher's start."""

    version: str
    area: str
    role: str
    """"writing"; "standing by" while another watcher holds the area; "ended" after an orderly end."""
    started: float
    now: float
    now_ns: int
    """The same moment on the monotonic clock, in nanoseconds."""
    synced: bool
    """Whether this watcher has published a complete list of its own."""
    generation: int
    rows: int
    models: int
    apps: int
    segment_bytes: int
    log_bytes: int
    rebuilding: bool
    events: int
    """Objects that the sources reported as added, changed or deleted."""
    publishes: int
    publish_failures: int
    publish_seconds: float
    """Seconds spent publishing, in all."""
    propagation_seconds: float
    """Seconds from the newest change's last byte to its publication."""
    propagations: int
    propagation_seconds_sum: float
    conflicts: int
    invalid: int
    handler_failures: int
    sources: tuple[SourceState, ...]
    audited: tuple[str, ...] = ()
    """Resources whose source supports audits."""
    audits: tuple[AuditStatus, ...] = ()
    metadata: MetadataStatus | None = None
    tables: tuple[str, ...] = ()
    """Names of the declared tables, whose sources the snapshot does not wait for: each has an age of its own."""
    table_rows: int = 0
    """Rows of the declared tables."""
    problem: str = ""
    """Reason why the newest state is not published, or else `tables_problem`; "" while all is well."""
    tables_problem: str = ""
    """Reason why the tables file cannot be used as it is; "" while it can."""
    settings: SettingsRow | None = None
    """Source, namespaces and selector that the watcher was started with."""
    threads: tuple[ThreadStatus, ...] = ()
    """The helper threads of the watcher."""
    no_room: tuple[str, ...] = ()
    """One text for each namespace that has used up its share of the area; their number is bounded."""
    no_room_objects: int = 0
    """Number of AppModels, addresses and values set aside for that reason, over all namespaces."""

    @property
    def age(self) -> float:
        """Seconds since the required sources were last all known to be up to date; infinite before the first time."""
        required = (state.contact_ns for state in self.sources if state.resource not in self.tables)
        return max(map(self.seconds_since, required), default=float("inf"))

    def seconds_since(self, at_ns: int) -> float:
        """Return the seconds from a source's `contact_ns` or `confirmed_ns` to this status; infinite for 0, never."""
        return (self.now_ns - at_ns) / 1e9 if at_ns else float("inf")


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Status)

encode_status = _encoder.encode


def decode_status(payload: bytes | None) -> Status | None:
    """Decode the status page of a control block; None if there is none, or if another version wrote it."""
    try:
        return _decoder.decode(payload) if payload else None
    except msgspec.MsgspecError:
        return None
