"""When to probe, when to look closer, when to compare. Pure: the time and the dice are arguments.

Asked by `shmroute.sources.kubernetes.probe` and by the fleet simulator, which make the requests and say what came of
them. All times are monotonic seconds.

* A probe comes every P. It is excused where the watch has brought an event or a bookmark since the last one was due,
  and never twice in a row.
* The first probe after `confirm_seconds` also asks the storage; that one is never excused.
* A cache ahead of the watch is no alarm: revisions count the writes to all resources, and a watch learns of them once
  a minute, by a bookmark. Only where it has stayed behind for `bookmark_seconds` something may be missing.
* Where neither events nor bookmarks tell (a server without bookmarks), a look finds nothing out. Such looks come twice
  as late each time, up to the period of the audit.
* After a broken connection one comparison is made, at a random moment of a window, and no two within five minutes.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmroute.sources.kubernetes.timing import Timing

__all__ = ["Due", "Schedule", "audit_wait"]

PROBE_JITTER = 0.1
"""Part of the probe period that is drawn: pods started together must not ask together for ever."""

AUDIT_JITTER = 0.2
"""Part of the time between audits that is drawn, to both sides: pods started together must not list together."""


class Due(enum.Enum):
    """The next step of the schedule."""

    PROBE = "probe"
    """Ask the server's cache how far it is."""
    CONFIRM = "confirm"
    """Ask the cache, and the storage too."""
    LOOK = "look"
    """The watch has stayed behind the cache for too long: see whether anything was missed."""
    COMPARE = "compare"
    """Compare what we hold with a list of the server's metadata."""


class Schedule:
    """The times of one resource's probes and comparisons. Not thread-safe."""

    def __init__(self, timing: Timing, now: float, dice: Callable[[], float]) -> None:
        self._timing = timing
        self._dice = dice
        self._probes = timing.probe_seconds > 0
        # A pod's first probe falls anywhere in the first period: pods start together.
        self._probe_at = now + timing.probe_seconds * dice()
        self._due_before = now
        """When the last probe was made or excused."""
        self._heard_at = float("-inf")
        self._excused = False
        self._confirmed_at = float("-inf")
        self._behind = 0
        """The cache's revision that the watch has not reached yet; 0 while it is in step."""
        self._look_at = float("inf")
        self._patience = timing.bookmark_seconds
        self._compare_at = float("inf")
        self._compared_at = float("-inf")

    @property
    def behind(self) -> int:
        """The cache's revision that the watch had not reached when last seen; 0 while it is in step."""
        return self._behind

    @property
    def comparing(self) -> bool:
        """Whether a comparison is due that has not been made yet."""
        return self._compare_at < float("inf")

    @property
    def compare_at(self) -> float:
        """When the comparison is due; infinite if none is."""
        return self._compare_at

    def next(self) -> tuple[Due, float]:
        """What is due next, and when."""
        if self._compare_at <= min(self._look_at, self._probe_at if self._probes else float("inf")):
            return Due.COMPARE, self._compare_at
        if self._look_at < self._probe_at or not self._probes:
            return Due.LOOK, self._look_at
        confirm = self._probe_at - self._confirmed_at >= self._timing.confirm_seconds
        return (Due.CONFIRM if confirm else Due.PROBE), self._probe_at

    def excuse(self, now: float) -> bool:
        """Whether the probe that is due now need not be made; if so, the next one is planned."""
        if self._excused or self._heard_at <= self._due_before:
            return False
        self._excused = True
        self._plan(now)
        return True

    # -- what has happened ------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        """The watch has brought an event or a bookmark."""
        self._heard_at = now

    def bookmarked(self) -> None:
        """A bookmark has come: this server sends them, so a missing one means something."""
        self._patience = self._timing.bookmark_seconds

    def reached(self, known: int) -> None:
        """The watch, or a peek, has come as far as `known`."""
        if known >= self._behind:
            self.looked()

    def probed(self, now: float) -> None:
        """A probe was made, or the watch was not open; the next one is planned."""
        self._excused = False
        self._plan(now)

    def wait_for(self, seconds: float, now: float) -> None:
        """The server wants to be left alone for so long."""
        self._probe_at = max(self._probe_at, now + seconds)

    def confirmed(self, now: float) -> None:
        """The storage has answered."""
        self._confirmed_at = now

    def ahead(self, revision: int, now: float) -> None:
        """The cache is at `revision`, which the watch has not reached."""
        if not self._behind:
            self._behind, self._look_at = revision, now + self._patience

    def looked(self) -> None:
        """Take the result of a peek: whether something is missing."""
        self._behind, self._look_at = 0, float("inf")

    def looked_in_vain(self, now: float) -> None:
        """Neither events nor bookmarks tell whether anything is missing: look again twice as late."""
        self._patience = min(self._patience * 2, self._timing.audit_seconds)
        self._look_at = now + self._patience

    def broken(self, now: float) -> None:
        """The connection broke and the watch has resumed: a comparison is due."""
        if not self.comparing:
            earliest = max(now, self._compared_at + self._timing.compare_spacing_seconds)
            self._compare_at = earliest + self._timing.compare_spread_seconds * self._dice()

    def compared(self, now: float) -> None:
        """The comparison was made."""
        self._compared_at = now
        self._compare_at = float("inf")

    def listed(self) -> None:
        """A complete list was handed out: a comparison would show nothing new."""
        self._compare_at = float("inf")

    def compare_again(self, seconds: float, now: float) -> None:
        """The comparison was not answered."""
        self._compare_at = now + seconds * (1 + self._dice())

    def _plan(self, now: float) -> None:
        self._due_before = now
        self._probe_at = now + self._timing.probe_seconds * (1 - PROBE_JITTER * self._dice())


def audit_wait(timing: Timing, dice: Callable[[], float]) -> float:
    """Seconds until the next audit."""
    return timing.audit_seconds * (1 + AUDIT_JITTER * (2 * dice() - 1))
