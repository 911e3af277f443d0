"""What a watcher says of itself: one value, shown in the control block, by `shmroute status`, in health and metrics.

Rewritten about once a second by the owner thread; reading it needs no help of the watcher.
"""

from __future__ import annotations

import msgspec

from shmroute.sources.base import SourceState

__all__ = ["AuditStatus", "MetadataStatus", "Status", "decode_status", "encode_status"]


class MetadataStatus(msgspec.Struct, frozen=True):
    """Counters of the metadata loader since the watcher started."""

    store: str
    """Where from, without credentials."""
    reads: int
    """Keys read."""
    read_commands: int
    skipped_by_version: int
    failures: int
    pending: int
    """Keys that are asked for again."""
    problem: str = ""
    """Why the store cannot be read, "" while it can."""


class AuditStatus(msgspec.Struct, frozen=True):
    """What the audits of one resource have shown since the watcher started."""

    resource: str
    count: int
    """Audits completed."""
    differences: int
    """Objects found different, summed: this must read 0."""
    newest: float
    """Unix seconds of the newest one, completed or not."""
    problem: str = ""
    """Why the newest one could not be completed."""


class Status(msgspec.Struct, frozen=True):
    """One second of a watcher's life. Times are Unix seconds, counters count from the watcher's start."""

    version: str
    area: str
    role: str
    """"writing", or "standing by" while another watcher holds the area."""
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
    """Objects added, changed or deleted that the sources have told of."""
    publishes: int
    publish_failures: int
    publish_seconds: float
    """Time spent publishing, summed."""
    propagation_seconds: float
    """From a change's last byte to its publication, the newest."""
    propagations: int
    propagation_seconds_sum: float
    conflicts: int
    invalid: int
    handler_failures: int
    sources: tuple[SourceState, ...]
    source_ages: tuple[float, ...]
    """Seconds since each source last proved that it is in step; infinite before it first did."""
    audited: tuple[str, ...] = ()
    """Resources whose source can compare itself with its server."""
    audits: tuple[AuditStatus, ...] = ()
    metadata: MetadataStatus | None = None
    problem: str = ""
    """Why the newest state is not published, "" while it is."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Status)

encode_status = _encoder.encode


def decode_status(payload: bytes) -> Status | None:
    """The status in a control block's status page; None if another version wrote it otherwise."""
    try:
        return _decoder.decode(payload)
    except msgspec.MsgspecError:
        return None
