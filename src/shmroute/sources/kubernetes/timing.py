"""The durations a Kubernetes source goes by, what they promise, and its counters. Values only."""

from __future__ import annotations

import msgspec

from shmroute.sources import backoff

__all__ = ["PROBE_SECONDS", "PROBE_SECONDS_MAX", "PROBE_SECONDS_MIN", "SourceStats", "Timing"]

PROBE_SECONDS = 30.0
"""Default seconds between two probes. With the other requests this keeps each followed resource below 0.05 requests a
second, which is 0.15 core of an API server for 1,000 watchers."""

PROBE_SECONDS_MIN = 5.0
"""Below this, 1,000 watchers take more than one core of an API server for their probes."""

PROBE_SECONDS_MAX = 300.0
"""Above this, the shortest watch (300 s) is over before a probe has looked at it."""

_SLACK_SECONDS = 4.0
"""Part of each promise that covers round trips, a connect, and threads of a busy machine."""


class Timing(msgspec.Struct, frozen=True):
    """All in seconds. The defaults are for clusters; tests make them short."""

    watch_seconds: tuple[float, float] = (300.0, 600.0)
    """A watch's own length is drawn from here, as client-go does, so that not all come back at once."""
    short_watch_seconds: float = 1.0
    """A watch that ends sooner is a failure even if it ended properly: it may go on like that for ever."""
    answer_seconds: float = 10.0
    """Limit for the head of a watch's answer: an API server sends it at once."""
    list_silence_seconds: float = 30.0
    """Limit between two pieces of a list, the first included: a server works on 100,000 objects for seconds."""
    list_seconds: float = 300.0
    """Limit for a whole streaming list; a page has `page_seconds`."""
    page_seconds: float = 60.0
    """Limit for one page of a list: kube-apiserver's own `--request-timeout`."""
    backoff_first_seconds: float = backoff.FIRST_SECONDS
    backoff_cap_seconds: float = backoff.CAP_SECONDS
    backoff_reset_seconds: float = backoff.RESET_AFTER_SECONDS
    unreachable_cap_seconds: float = 4.0
    """Cap of the back-off from a server that does not answer: with the jitter each attempt comes within 8 s, so that
    changes are seen within 10 s after the server is back. An attempt costs a connect, and a dead server nothing."""
    starting_cap_seconds: float = 1.5
    """Cap of the back-off from a server that has just started and refuses everybody until it has read its roles."""
    answered_reset_seconds: float = 10.0
    """A server that has answered for this long is back: its next failure is a first one."""
    forbidden_seconds: float = 30.0
    """Least wait after the second 403 in a row: someone has to change a role first."""
    contact_report_seconds: float = 1.0
    """Least time between two `SourceState` events that tell nothing but a newer contact."""
    stop_seconds: float = 0.5
    """How long `run` waits for its helpers when it ends; one that hangs in a connect is left behind."""

    probe_seconds: float = PROBE_SECONDS
    """Longest time between two probes, P; each wait is drawn from its last tenth. An event or a bookmark excuses one
    probe, so two come at most 2 P apart. 0: no probes."""
    confirm_seconds: float = 120.0
    """The first probe after this long also asks the storage, by a quorum read."""
    probe_timeout_seconds: float = 5.0
    """Limit for one answer to a probe, which takes a healthy server 1 to 3 ms."""
    probe_retry_seconds: float = 1.0
    """Wait after one probe without an answer; the second one in a row ends the watch."""
    bookmark_seconds: float = 68.0
    """How long a watch may stay behind the server's cache without a bookmark: an API server sends one about every
    minute. After that a peek shows whether anything was missed."""
    peek_seconds: int = 3
    """Length of a peek, a second, short watch. A server sends its closing bookmark 2 s before the end, so 3 is the
    shortest that has one; it came after 0.7 to 1.8 s."""
    grace_seconds: float = 3.0
    """How much later than a peek the watch may tell the same; a healthy one takes milliseconds."""
    compare_spread_seconds: float = 30.0
    """The comparison after a broken connection is made at a random moment of this window."""
    compare_spacing_seconds: float = 300.0
    """Least time between two comparisons of one resource."""
    compare_retry_seconds: float = 30.0
    """Wait after a comparison that the server did not answer."""
    audit_seconds: float = 1800.0
    """Time between audits, jittered by a fifth."""
    audit_grace_seconds: float = 5.0
    """How long an object may look different in a fresh list, while its event is still on the way."""

    @property
    def dead_within(self) -> float:
        """A peer whose packets vanish is noticed within this, by the kernel's keep-alive, however rare probes are."""
        return 30.0

    @property
    def frozen_within(self) -> float:
        """A server that is frozen behind a living proxy is noticed within this: 2 P + 15 s."""
        return 2 * self.probe_seconds + 2 * self.probe_timeout_seconds + self.probe_retry_seconds + _SLACK_SECONDS

    @property
    def silent_within(self) -> float:
        """A watch that swallows events and bookmarks is opened anew within this: 2 P + 75 s.

        A peek tells of an event at once and the grace follows, or it tells nothing to its end: never both in full.
        """
        settle = max(self.peek_seconds, self.grace_seconds)
        return 2 * self.probe_seconds + self.bookmark_seconds + settle + _SLACK_SECONDS

    @property
    def rewound_within(self) -> float:
        """A server that went back in time is listed again within this: 120 s + P."""
        return self.confirm_seconds + self.probe_seconds


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
    """Objects without a usable name."""
    bytes: int = 0
    """Bytes of bodies, as they were read."""
    errors: int = 0
    """Failures that were followed by a wait."""
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
    """Objects found different by audits: this must read 0."""
    restarts: dict[str, int] = {}
    """Why lists and watches were begun again: reason -> how often."""

    def restarted(self, reason: str) -> None:
        self.restarts[reason] = self.restarts.get(reason, 0) + 1
