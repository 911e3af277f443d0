"""The schedule of probes, peeks and comparisons. Pure: the time and the dice are arguments.

Called by `shmroute.sources.kubernetes.probe` and by the fleet simulator, which make the requests and report their
results. All times are monotonic seconds.

* A probe is due every P. It is skipped if the watch has received an event or a bookmark since the last one was due,
  but never twice in a row.
* The first probe after `confirm_seconds` also asks the storage; it is never skipped.
* A cache ahead of the watch is normal: revisions count the writes to all resources, and a watch learns of them once
  a minute, by a bookmark. Only after `bookmark_seconds` behind the cache may the watch have missed something.
* Without bookmarks and events (a server that sends no bookmarks), a peek cannot decide. The wait before the next peek
  then doubles each time, up to the period of the audit.
* After a broken connection one comparison is made, at a random moment of a window, at most one in five minutes.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmroute.sources.kubernetes.timing import Timing

PROBE_JITTER = 0.1
"""Random part of the probe period, as a fraction of it: pods started together must not probe together for ever."""

AUDIT_JITTER = 0.2
"""Random part of the audit period, +-20 %: pods started together must not list together."""


class Due(enum.Enum):
    """The next step of the schedule."""

    PROBE = "probe"
    """Ask the server's cache for its newest revision."""
    CONFIRM = "confirm"
    """Ask the cache and the storage for their newest revisions."""
    LOOK = "look"
    """Peek: the watch has stayed behind the cache for too long and may have missed something."""
    COMPARE = "compare"
    """Compare the objects we hold with a list of the server's metadata."""


class Schedule:
    """The times of one resource's probes and comparisons. Not thread-safe."""

    def __init__(self, timing: Timing, now: float, dice: Callable[[], float]) -> None:
        self._timing = timing
        self._dice = dice
        self._probes = timing.probe_seconds > 0
        # The first probe comes at a random time of the first period: pods start together.
        self._probe_at = now + timing.probe_seconds * dice()
        self._due_before = now
        """Time at which the last probe was made or skipped."""
        self._heard_at = float("-inf")
        self._excused = False
        self._confirmed_at = float("-inf")
        self._behind = 0
        """The cache's revision that the watch has not reached yet; 0 while the watch is in step."""
        self._look_at = float("inf")
        self._patience = timing.bookmark_seconds
        self._compare_at = float("inf")
        self._compared_at = float("-inf")

    @property
    def behind(self) -> int:
        """The cache's revision that the watch had not reached at the last probe; 0 while the watch is in step."""
        return self._behind

    @property
    def comparing(self) -> bool:
        """Whether a comparison is planned."""
        return self._compare_at < float("inf")

    @property
    def compare_at(self) -> float:
        """Time of the planned comparison; infinite if none is planned."""
        return self._compare_at

    def next(self) -> tuple[Due, float]:
        """Return the next step and its time."""
        if self._compare_at <= min(self._look_at, self._probe_at if self._probes else float("inf")):
            return Due.COMPARE, self._compare_at
        if self._look_at < self._probe_at or not self._probes:
            return Due.LOOK, self._look_at
        confirm = self._probe_at - self._confirmed_at >= self._timing.confirm_seconds
        return (Due.CONFIRM if confirm else Due.PROBE), self._probe_at

    def excuse(self, now: float) -> bool:
        """Return whether the probe due now can be skipped; if so, plan the next one."""
        if self._excused or self._heard_at <= self._due_before:
            return False
        self._excused = True
        self._plan(now)
        return True

    # -- what has happened ------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        """Note that the watch has received an event or a bookmark."""
        self._heard_at = now

    def bookmarked(self) -> None:
        """Note a bookmark: this server sends them, so a missing one is a sign of trouble."""
        self._patience = self._timing.bookmark_seconds

    def reached(self, known: int) -> None:
        """Note that the watch, or a peek, has reached the revision `known`."""
        if known >= self._behind:
            self.looked()

    def probed(self, now: float) -> None:
        """Plan the next probe: one was made, or the watch was not open."""
        self._excused = False
        self._plan(now)

    def wait_for(self, seconds: float, now: float) -> None:
        """Put the next probe off by `seconds`: the server's Retry-After."""
        self._probe_at = max(self._probe_at, now + seconds)

    def confirmed(self, now: float) -> None:
        """Note that the storage has answered."""
        self._confirmed_at = now

    def ahead(self, revision: int, now: float) -> None:
        """Note that the cache is at `revision`, which the watch has not reached."""
        if not self._behind:
            self._behind, self._look_at = revision, now + self._patience

    def looked(self) -> None:
        """Note that a peek, or the watch itself, has answered whether something is missing."""
        self._behind, self._look_at = 0, float("inf")

    def looked_in_vain(self, now: float) -> None:
        """Double the wait before the next peek: this one showed neither an event nor a bookmark."""
        self._patience = min(self._patience * 2, self._timing.audit_seconds)
        self._look_at = now + self._patience

    def broken(self, now: float) -> None:
        """Plan a comparison: the connection broke and the watch has resumed."""
        if not self.comparing:
            earliest = max(now, self._compared_at + self._timing.compare_spacing_seconds)
            self._compare_at = earliest + self._timing.compare_spread_seconds * self._dice()

    def compared(self, now: float) -> None:
        """Note that the comparison was made."""
        self._compared_at = now
        self._compare_at = float("inf")

    def listed(self) -> None:
        """Cancel the comparison: a complete list was sent, so it would show nothing new."""
        self._compare_at = float("inf")

    def compare_again(self, seconds: float, now: float) -> None:
        """Plan the comparison again, `seconds` or more from now: the server did not answer it."""
        self._compare_at = now + seconds * (1 + self._dice())

    def _plan(self, now: float) -> None:
        self._due_before = now
        self._probe_at = now + self._timing.probe_seconds * (1 - PROBE_JITTER * self._dice())


def audit_wait(timing: Timing, dice: Callable[[], float]) -> float:
    """Return the seconds until the next audit."""
    return timing.audit_seconds * (1 + AUDIT_JITTER * (2 * dice() - 1))
