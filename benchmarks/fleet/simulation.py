"""Watchers as state machines on one queue of events; their decisions are shmroute's own code."""

from __future__ import annotations

import gc
import heapq
import itertools
import math
import random
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from benchmarks.fleet.server import Request, Scenario, Server
from shmroute.errors import ApiError
from shmroute.sources.kubernetes.recovery import Recovery
from shmroute.sources.kubernetes.schedule import Due, Schedule, audit_wait
from shmroute.sources.kubernetes.timing import Timing

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RESTART", "SPLIT", "Outcome", "Simulation", "Staleness"]

BOOKMARK_SECONDS: Final = 60.0
"""Typical seconds between two bookmarks of an API server."""

KEEPALIVE_SECONDS: Final = (10.0, 20.0)
"""Seconds until the kernel closes a connection to a dead peer: probes after 10 s of silence, TCP_USER_TIMEOUT 20 s."""

CONNECT_SECONDS: Final = 5.0
"""Time-out of a connect without an answer, in seconds."""

NEVER: Final = math.inf

RESTART, SPLIT = "restart", "split"
"""Causes that cut followers off."""


class Staleness(msgspec.Struct, frozen=True):
    """Delay until all followers of the resource saw a change, in seconds."""

    median: float
    p99: float
    max: float


class Outcome(msgspec.Struct, frozen=True):
    """The results of one simulation."""

    scenario: Scenario
    server: Server
    late: dict[str, Counter[int]]
    """Number of changes by cause and delay in tenths of a second, counted for each follower."""

    def staleness(self, cause: str) -> Staleness:
        """Return the staleness of changes during outages of this cause; all other changes take milliseconds."""
        late = self.late[cause]
        total = late.total()
        if not total:
            return Staleness(0.0, 0.0, 0.0)
        counted, found = 0, []
        wanted = [total * 0.5, total * 0.99]
        for tenths in sorted(late):
            counted += late[tenths]
            while wanted and counted >= wanted[0]:
                found.append(tenths / 10)
                wanted.pop(0)
        return Staleness(found[0], found[1], max(late) / 10)


class _Follower:
    """One resource of one watcher."""

    __slots__ = (
        "audit_at",
        "broken",
        "cut_since",
        "generation",
        "listing",
        "opened_at",
        "recovery",
        "schedule",
        "split",
    )

    def __init__(self, simulation: Simulation, split: bool) -> None:
        self.split = split
        self.generation = 0
        """Number of this follower's current process or connection: queued events of an older one are void."""
        self.begin(simulation)

    def begin(self, simulation: Simulation) -> None:
        """Start as a new process."""
        clock, dice = simulation.clock, simulation.dice
        self.recovery = Recovery(simulation.timing, clock=clock, dice=dice)
        self.schedule = Schedule(simulation.timing, simulation.now, dice)
        self.audit_at = simulation.now + audit_wait(simulation.timing, dice)
        self.opened_at = NEVER
        """Time at which the watch was opened; infinite while there is none."""
        self.cut_since = NEVER
        self.broken = False
        self.listing = True


class Simulation:
    """Plays a scenario to its end."""

    def __init__(self, scenario: Scenario, timing: Timing | None = None, seed: int = 1) -> None:
        self.scenario = scenario
        self.timing = timing or Timing()
        self.server = Server(scenario)
        self.now = 0.0
        self.dice = random.Random(seed).random
        self.late: dict[str, Counter[int]] = {RESTART: Counter(), SPLIT: Counter()}
        self._queue: list[tuple[float, int, int, Callable[[_Follower], None], _Follower]] = []
        self._numbers = itertools.count()

    def clock(self) -> float:
        return self.now

    def run(self) -> Outcome:
        """Play the scenario; return its results."""
        scenario = self.scenario
        cut_off = int(scenario.watchers * scenario.split_share)
        followers = []
        for number in range(scenario.watchers):
            start = scenario.start_seconds * self.dice()
            for _ in range(scenario.resources):
                follower = _Follower(self, split=number < cut_off)
                followers.append(follower)
                self._at(start, self._start, follower)
                if scenario.restart_at < scenario.seconds:
                    self._push(scenario.restart_at, self._cut, follower)
                if follower.split and scenario.split_at < scenario.seconds:
                    low, high = KEEPALIVE_SECONDS
                    self._push(scenario.split_at + low + (high - low) * self.dice(), self._cut_by_split, follower)
                if scenario.rollout_at < scenario.seconds:
                    moment = scenario.rollout_at + scenario.rollout_seconds * number / scenario.watchers
                    self._push(moment, self._replaced, follower)
        gc.disable()  # millions of small tuples, none of them in a cycle
        try:
            while self._queue and self._queue[0][0] < scenario.seconds:
                self.now, _, generation, act, follower = heapq.heappop(self._queue)
                if generation in (follower.generation, -1):
                    act(follower)
        finally:
            gc.enable()
        return Outcome(scenario, self.server, self.late)

    # -- events -----------------------------------------------------------------------------------

    def _start(self, follower: _Follower) -> None:
        follower.begin(self)
        self._list(follower)

    def _replaced(self, follower: _Follower) -> None:
        """End the follower's pod and start a new one."""
        self._close(follower)
        follower.generation += 1
        follower.cut_since = NEVER
        self._start(follower)

    def _cut(self, follower: _Follower) -> None:
        """Break the follower's connection."""
        if follower.opened_at == NEVER:
            return
        self._close(follower)
        follower.cut_since = min(follower.cut_since, self.now)
        follower.broken = True
        self._fail(follower, ApiError("GET", 0, "ProtocolError", "cut"), self._watch)

    def _cut_by_split(self, follower: _Follower) -> None:
        if follower.opened_at != NEVER:
            follower.cut_since = self.scenario.split_at
        self._cut(follower)

    def _list(self, follower: _Follower) -> None:
        error = self._reach(follower, Request.LIST)
        if error is not None:
            self._fail(follower, error, self._list)
            return
        self._at(self.now + self.scenario.list_seconds, self._listed, follower)

    def _listed(self, follower: _Follower) -> None:
        follower.broken = False
        follower.listing = False
        self._seen(follower)
        follower.schedule.listed()
        self._watch(follower)

    def _watch(self, follower: _Follower) -> None:
        error = self._reach(follower, Request.WATCH)
        if error is not None:
            follower.broken = True
            self._fail(follower, error, self._watch)
            return
        restart = self.scenario.restart_at
        if follower.cut_since <= restart <= self.now and not follower.listing:
            # The server's history begins with its restart: what came before is too old.
            follower.listing = True
            self._at(self.now + follower.recovery.gone(), self._list, follower)
            return
        self._seen(follower)
        follower.opened_at = self.now
        self.server.opened(1)
        follower.recovery.opened()
        follower.recovery.proved()
        if follower.broken:
            follower.broken = False
            follower.schedule.broken(self.now)
        low, high = self.timing.watch_seconds
        self._at(self.now + low + (high - low) * self.dice(), self._ended, follower)
        self._plan(follower)

    def _ended(self, follower: _Follower) -> None:
        """End the watch properly, as the server does; the follower reopens it at once."""
        self._close(follower)
        follower.generation += 1
        self._watch(follower)

    def _turn(self, follower: _Follower) -> None:
        """Take the due step, as the probe's thread does."""
        if follower.opened_at == NEVER:
            return
        schedule, now = follower.schedule, self.now
        if now >= follower.audit_at:
            follower.audit_at = now + audit_wait(self.timing, self.dice)
            self.server.ask(Request.AUDIT, now)
        heard = self._heard_at(follower)
        schedule.heard(heard)
        schedule.reached(self._revision(heard))
        due, at = schedule.next()
        if at <= now:
            if due is Due.COMPARE:
                self._compare(follower)
            elif due is Due.LOOK:
                schedule.looked()
            elif due is Due.CONFIRM or not schedule.excuse(now):
                schedule.probed(now)
                self._probe(follower, confirm=due is Due.CONFIRM)
        if follower.opened_at != NEVER:
            self._plan(follower)

    def _probe(self, follower: _Follower, *, confirm: bool) -> None:
        if self._split(follower):
            return  # unanswered; the kernel gives the connection up before the second attempt does
        self.server.ask(Request.CACHE, self.now)
        follower.schedule.ahead(self._revision(self.now), self.now)
        if confirm:
            self.server.ask(Request.QUORUM, self.now)
            follower.schedule.confirmed(self.now)

    def _compare(self, follower: _Follower) -> None:
        error = self._reach(follower, Request.COMPARE)
        if error is None:
            follower.schedule.compared(self.now)
        else:
            follower.schedule.compare_again(self.timing.compare_retry_seconds, self.now)

    # -- inside -----------------------------------------------------------------------------------

    def _reach(self, follower: _Follower, kind: Request) -> ApiError | None:
        if self._split(follower):
            return ApiError("GET", 0, "ConnectTimeoutError", "no answer")
        return self.server.ask(kind, self.now)

    def _split(self, follower: _Follower) -> bool:
        since = self.now - self.scenario.split_at
        return follower.split and 0 <= since < self.scenario.split_seconds

    def _fail(self, follower: _Follower, error: ApiError, again: Callable[[_Follower], None]) -> None:
        """Wait as the kind of failure asks for, then try again."""
        follower.generation += 1
        taken = CONNECT_SECONDS if error.reason == "ConnectTimeoutError" else 0.0
        self._at(self.now + taken + follower.recovery.failed(error), again, follower)

    def _close(self, follower: _Follower) -> None:
        if follower.opened_at != NEVER:
            self.server.opened(-1)
            follower.opened_at = NEVER

    def _seen(self, follower: _Follower) -> None:
        """Count the changes since the follower was cut off: it sees them now."""
        rate = self.scenario.changes_a_second
        if follower.cut_since < self.now and rate:
            late = self.late[RESTART if follower.cut_since < self.scenario.split_at else SPLIT]
            change = math.ceil(follower.cut_since * rate) / rate
            while change <= self.now:
                late[round((self.now - change) * 10)] += 1
                change += 1 / rate
        follower.cut_since = NEVER

    def _heard_at(self, follower: _Follower) -> float:
        """Return the time at which the open watch last delivered an event or a bookmark."""
        rate = self.scenario.changes_a_second
        bookmark = follower.opened_at
        if rate or self.scenario.others_a_second:  # a quiet server has nothing to say
            bookmark += (self.now - follower.opened_at) // BOOKMARK_SECONDS * BOOKMARK_SECONDS
        change = math.floor(self.now * rate) / rate if rate else -NEVER
        return max(bookmark, max(follower.opened_at, change))

    def _revision(self, moment: float) -> int:
        """Return the revision of the server's cache at that time."""
        return int(max(0.0, moment) * (self.scenario.others_a_second + self.scenario.changes_a_second)) + 1

    def _plan(self, follower: _Follower) -> None:
        _, at = follower.schedule.next()
        self._at(max(self.now, min(at, follower.audit_at)), self._turn, follower)

    def _at(self, moment: float, act: Callable[[_Follower], None], follower: _Follower) -> None:
        heapq.heappush(self._queue, (moment, next(self._numbers), follower.generation, act, follower))

    def _push(self, moment: float, act: Callable[[_Follower], None], follower: _Follower) -> None:
        """Schedule an event for the follower, in any state that it is in then."""
        heapq.heappush(self._queue, (moment, next(self._numbers), -1, act, follower))
