"""A watcher's status as one value: shown by `shmroute status`, `/healthz`, `/readyz` and `/metrics`.

The owner thread writes it into the control block about once a second. Readers need no help of the watcher.
"""

from __future__ import annotations

from typing import Final

import msgspec

from shmroute.rows import SettingsRow
from shmroute.sources.base import SourceState

__all__ = [
    "ENDED",
    "FROZEN_SECONDS",
    "HEARTBEAT_SECONDS",
    "AuditStatus",
    "MetadataStatus",
    "Status",
    "ThreadStatus",
    "decode_status",
    "encode_status",
]

HEARTBEAT_SECONDS: Final = 1.0
"""Seconds between two heartbeats of a watcher, which are also the turns of its owner's loop."""

FROZEN_SECONDS: Final = 5 * HEARTBEAT_SECONDS
"""Seconds without a heartbeat before a watcher counts as dead or frozen."""

ENDED: Final = "ended"
"""The role that a watcher writes when it ends in order."""


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
    """Why the store cannot be read, "" while it can."""
    key_template: str = ""
    """How keys are made of namespace, app, model and version."""


class ThreadStatus(msgspec.Struct, frozen=True):
    """One of the watcher's helper threads."""

    name: str
    alive: bool
    restarts: int
    problem: str
    """Why it ended last; "" if it never did, or has run without failure since."""


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
    """Why the newest audit failed, "" if it did not."""


class Status(msgspec.Struct, frozen=True):
    """A watcher's state. Times are Unix seconds; counters count from the watcher's start."""

    version: str
    area: str
    role: str
    """"writing"; "standing by" while another watcher holds the area; "ended" after an orderly end."""
    started: float
    now: float
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
    source_ages: tuple[float, ...]
    """Seconds since each source last heard its server, by the watch or the cache; infinite before it first did."""
    storage_ages: tuple[float, ...] = ()
    """Seconds since each source's storage last confirmed that it had not gone back; infinite where it has not."""
    audited: tuple[str, ...] = ()
    """Resources whose source supports audits."""
    audits: tuple[AuditStatus, ...] = ()
    metadata: MetadataStatus | None = None
    tables: tuple[str, ...] = ()
    """Sources of declared tables that the snapshot does not wait for: each has an age of its own."""
    problem: str = ""
    """Why the newest state is not published, "" while it is."""
    settings: SettingsRow | None = None
    """What the watcher was asked to watch."""
    threads: tuple[ThreadStatus, ...] = ()
    """The helper threads of the watcher."""
    no_room: tuple[str, ...] = ()
    """The namespaces that have taken their share of the area, in words; a bounded number of them."""
    no_room_objects: int = 0
    """AppModels, addresses and values that are set aside for that reason, of all namespaces."""

    @property
    def age(self) -> float:
        """Seconds since every source that the snapshot waits for was in step; infinite before that."""
        ages = zip(self.sources, self.source_ages, strict=True)
        return max((age for state, age in ages if state.resource not in self.tables), default=float("inf"))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Status)

encode_status = _encoder.encode


def decode_status(payload: bytes) -> Status | None:
    """The status in a control block's status page; None if another version wrote it otherwise."""
    try:
        return _decoder.decode(payload)
    except msgspec.MsgspecError:
        return None
