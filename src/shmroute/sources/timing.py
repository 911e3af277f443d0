"""The durations a Kubernetes source goes by, and its counters. Values only."""

from __future__ import annotations

import msgspec

from shmroute.sources import backoff

__all__ = ["SourceStats", "Timing"]


class Timing(msgspec.Struct, frozen=True):
    """All in seconds. The defaults are for clusters; tests make them short."""

    watch_seconds: tuple[float, float] = (300.0, 600.0)
    """A watch's own length is drawn from here, as client-go does: so that not all come back at once."""
    short_watch_seconds: float = 1.0
    """A watch that ends sooner is a failure, however properly it ended: it may go on like that for ever."""
    answer_seconds: float = 10.0
    """Until a watch's head has come: an API server sends it at once."""
    list_silence_seconds: float = 30.0
    """Between two pieces of a list, the first included: a server works on 100,000 objects for seconds."""
    backoff_first_seconds: float = backoff.FIRST_SECONDS
    backoff_cap_seconds: float = backoff.CAP_SECONDS
    backoff_reset_seconds: float = backoff.RESET_AFTER_SECONDS
    forbidden_seconds: float = 30.0
    """At least so long between attempts once we are told 403 twice in a row: someone has to change a role first."""
    gone_spacing_seconds: float = 60.0
    """A second 410 within this is a failure that backs off; the first is followed by a list at once."""
    contact_report_seconds: float = 1.0
    """`SourceState` tells the contact at most this often while events pour in."""
    stop_seconds: float = 0.5
    """How long `run` waits for its helpers when it ends; what hangs in a connect is left behind."""

    probe_seconds: float = 10.0
    """Between probes, jittered by a fifth: with the two times below a dead peer is noticed in 12 + 5 + 1 + 5 s."""
    probe_timeout_seconds: float = 5.0
    """For one answer to a probe, which takes a healthy server 1 to 3 ms."""
    probe_retry_seconds: float = 1.0
    """After one probe without an answer; the second one in a row ends the watch."""
    peek_seconds: int = 3
    """A second, short watch that shows whether anything was missed. A server sends its closing bookmark 2 s before
    the end, so 3 is the shortest that has one; it came after 0.7 to 1.8 s."""
    grace_seconds: float = 3.0
    """How much later than a probe the watch may tell the same; a healthy one takes milliseconds."""
    audit_seconds: float = 1800.0
    """Between audits, jittered by a fifth."""
    audit_grace_seconds: float = 5.0
    """How long an object may look different in a fresh list, while its event is still on the way."""


class SourceStats(msgspec.Struct):
    """Counters since the start; plain integers, read from any thread."""

    lists: int = 0
    """Whole lists begun, streaming or paged."""
    watches: int = 0
    """Watches opened, without streaming lists and peeks."""
    events: int = 0
    """ADDED, MODIFIED and DELETED."""
    bookmarks: int = 0
    skipped: int = 0
    """Objects without so much as a usable name."""
    bytes: int = 0
    """Of bodies, as they were read."""
    errors: int = 0
    """Failures that were followed by a wait."""
    probes: int = 0
    """Probe pairs answered."""
    peeks: int = 0
    audits: int = 0
    """Audits completed."""
    audit_differences: int = 0
    """Objects found different by audits: this must read 0."""
    restarts: dict[str, int] = {}
    """Why lists and watches were begun again: reason -> how often."""

    def restarted(self, reason: str) -> None:
        self.restarts[reason] = self.restarts.get(reason, 0) + 1
