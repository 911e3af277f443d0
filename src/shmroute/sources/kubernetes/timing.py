"""Durations of a Kubernetes source, the detection times that follow from them, and its counters. Values only."""

from __future__ import annotations

import msgspec

from shmroute import backoff

PROBE_SECONDS = 30.0
"""Default seconds between two probes. All requests together stay below 0.05 a second for each followed resource,
which is 0.15 core of an API server for 1,000 watchers."""

PROBE_SECONDS_MIN = 5.0
"""Minimum seconds between two probes: below it, the probes of 1,000 watchers cost an API server more than one core."""

PROBE_SECONDS_MAX = 300.0
"""Maximum seconds between two probes: above it, the shortest watch (300 s) would end before any probe."""

_SLACK_SECONDS = 4.0
"""Seconds in each detection time for round trips, a connect, and the threads of a busy machine."""


class Timing(msgspec.Struct, frozen=True):
    """Durations, in seconds. The defaults are for clusters; tests make them short."""

    watch_seconds: tuple[float, float] = (300.0, 600.0)
    """Range from which the length of a watch is drawn, as client-go does, so that not all reopen at once."""
    short_watch_seconds: float = 1.0
    """A watch that ends sooner is a failure even if it ended properly: every further one may do the same."""
    answer_seconds: float = 10.0
    """Longest wait for the head of a watch's answer: an API server sends it at once."""
    list_silence_seconds: float = 30.0
    """Longest wait for the first or next bytes of a list: a server works on 100,000 objects for seconds."""
    list_seconds: float = 300.0
    """Longest time for a whole streaming list; `page_seconds` limits a page."""
    page_seconds: float = 60.0
    """Longest time for one page of a list: kube-apiserver's own `--request-timeout`."""
    backoff_first_seconds: float = backoff.FIRST_SECONDS
    backoff_cap_seconds: float = backoff.CAP_SECONDS
    backoff_reset_seconds: float = backoff.RESET_AFTER_SECONDS
    unreachable_cap_seconds: float = 4.0
    """Longest back-off, before jitter, from a server that does not answer. With jitter attempts are at most 8 s apart,
    so changes are seen within 10 s after the server is back. An attempt is one connect, which costs a dead server
    nothing."""
    starting_cap_seconds: float = 1.5
    """Longest back-off from a server that has just started and refuses everybody until it has read its roles."""
    answered_reset_seconds: float = 10.0
    """Time for which a server must answer before its next failure counts as the first."""
    forbidden_seconds: float = 30.0
    """Shortest wait after the second 403 in a row: somebody has to change a role first."""
    contact_report_seconds: float = 1.0
    """Shortest time between two `SourceState` events that report only a newer contact."""
    stop_seconds: float = 0.5
    """Longest wait of `run` for its helper threads at the end; one that hangs in a connect is abandoned."""

    probe_seconds: float = PROBE_SECONDS
    """Longest time between two probes, P; each wait is 0.9 P to P. An event or a bookmark replaces one probe, so two
    probes are at most 2 P apart. 0: no probes."""
    confirm_seconds: float = 120.0
    """Time after which the next probe also asks the storage, by a quorum read."""
    probe_timeout_seconds: float = 5.0
    """Longest wait for the answer to a probe; a healthy server takes 1 to 3 ms."""
    probe_retry_seconds: float = 1.0
    """Wait after one probe without an answer; the second one in a row ends the watch."""
    bookmark_seconds: float = 68.0
    """Longest time for which a watch may stay behind the server's cache: an API server sends a bookmark about every
    minute. After that a peek shows whether anything was missed."""
    peek_seconds: int = 3
    """Length of a peek, a second, short watch. A server sends the closing bookmark 2 s before the end, so 3 is the
    shortest length that has one; the bookmark came after 0.7 to 1.8 s."""
    grace_seconds: float = 3.0
    """Longest delay of the watch behind a peek for the same event; a healthy watch takes milliseconds."""
    compare_spread_seconds: float = 30.0
    """Length of the window in which, at a random moment, the comparison after a broken connection is made."""
    compare_spacing_seconds: float = 300.0
    """Shortest time between two comparisons of one resource."""
    compare_retry_seconds: float = 30.0
    """Wait after a comparison that the server did not answer, before jitter."""
    audit_seconds: float = 1800.0
    """Time between two audits, +-20 %."""
    audit_grace_seconds: float = 5.0
    """Longest time for which an object may differ in a fresh list, because its event is still on its way."""

    @property
    def dead_within(self) -> float:
        """Time until a peer whose packets vanish is noticed, by the kernel's keep-alive, however rare probes are."""
        return 30.0

    @property
    def frozen_within(self) -> float:
        """Time until a frozen server behind a working proxy is noticed: 2 P + 15 s."""
        return 2 * self.probe_seconds + 2 * self.probe_timeout_seconds + self.probe_retry_seconds + _SLACK_SECONDS

    @property
    def silent_within(self) -> float:
        """Time until a watch that loses events and bookmarks is reopened: 2 P + 75 s.

        A peek shows an event at once, and then the grace period runs; or it lasts to its end. So the longer one counts.
        """
        settle = max(self.peek_seconds, self.grace_seconds)
        return 2 * self.probe_seconds + self.bookmark_seconds + settle + _SLACK_SECONDS

    @property
    def rewound_within(self) -> float:
        """Time until a server that went back in time is listed again: 120 s + P."""
        return self.confirm_seconds + self.probe_seconds


class SourceStats(msgspec.Struct):
    """Counters since the start; plain integers, read from any thread."""

    lists: int = 0
    """Complete lists started, streaming or paged."""
    watches: int = 0
    """Watches opened, without streaming lists and peeks."""
    bookmarks: int = 0
    bytes: int = 0
    """Bytes of bodies read."""
    errors: int = 0
    """Failures after which the source waited."""
    probes: int = 0
    """Probes that the server's cache answered."""
    confirmations: int = 0
    """Probes that the storage answered."""
    peeks: int = 0
    comparisons: int = 0
    """Comparisons completed after a broken connection."""
    audits: int = 0
    """Audits completed."""
    audit_differences: int = 0
    """Objects that audits found to differ: this must be 0."""
    restarts: dict[str, int] = {}
    """Number of restarts of lists and watches, by reason."""

    def restarted(self, reason: str) -> None:
        self.restarts[reason] = self.restarts.get(reason, 0) + 1
