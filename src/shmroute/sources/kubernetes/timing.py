"""The durations a Kubernetes source goes by, and its counters. Values only."""

from __future__ import annotations

import msgspec

from shmroute.sources import backoff

__all__ = ["PROBE_PERIOD_SECONDS", "SourceStats", "Timing"]

PROBE_PERIOD_SECONDS = 10.0
"""The probe period: how long after an event that the watch swallows the watch has been opened anew, at the latest.

All is in it: the wait until the next probe, the probe, the peek, the grace. The server is a healthy one; how soon one
that answers nothing is noticed is another sum (see `Timing.probe_timeout_seconds`).
"""

_PEEK_SECONDS = 3
_GRACE_SECONDS = 3.0

_ROUND_TRIPS_SECONDS = 0.5
"""Of the period, for what takes milliseconds: the server's cache learns of the event, the pair is answered, the peek
and the new watch are opened, and threads of a busy machine get their turn."""

_LONGEST_WAIT_SECONDS = PROBE_PERIOD_SECONDS - _ROUND_TRIPS_SECONDS - max(_PEEK_SECONDS, _GRACE_SECONDS)
"""What is left for the wait: 6.5 s. A peek tells of an event at once and the grace follows, or it tells
nothing to its end and no grace follows: never both in full."""


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

    probe_wait_seconds: tuple[float, float] = (_LONGEST_WAIT_SECONDS - 1.0, _LONGEST_WAIT_SECONDS)
    """From one probe's beginning to the next one's, drawn anew each time: pods started together must not ask together
    for ever. As long as the period allows, since a pair takes some 3 ms of the API server's time."""
    probe_timeout_seconds: float = 5.0
    """For one answer to a probe, which takes a healthy server 1 to 3 ms. With the wait above and the one below, a
    peer that answers nothing is noticed in 6.5 + 5 + 1 + 5 s."""
    probe_retry_seconds: float = 1.0
    """After one probe without an answer; the second one in a row ends the watch."""
    peek_seconds: int = _PEEK_SECONDS
    """A second, short watch that shows whether anything was missed. A server sends its closing bookmark 2 s before
    the end, so 3 is the shortest that has one; it came after 0.7 to 1.8 s."""
    grace_seconds: float = _GRACE_SECONDS
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
