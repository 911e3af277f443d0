"""A simulated environment for the policy: pods that answer or fail as set, a clock and dice set by the test."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from shmroute.calls import Attempts, Outcome, Policy, Settings
from shmroute.calls.callee import Callee
from shmroute.errors import CallFailed
from shmroute.rows import EndpointsRow, EndpointsState
from shmroute.worker.endpoints import Busy, Pool
from shmroute.worker.position import Position
from tests.routing import endpoint

REFUSES = (Outcome.REFUSED, False)
BREAKS = (Outcome.BROKEN, True)
HANGS = (Outcome.TIMEOUT, True)


class _Called(NamedTuple):
    """A route to the pods of a world."""

    pool: Pool
    model: str = "m"
    app: str = "app"
    namespace: str = "ns"
    appmodel: str = "app"

    def current_pool(self) -> Pool:
        return self.pool


class World:
    """Pods by address, each with the result of a request to it: None for an answer, else `(outcome, sent)`."""

    def __init__(self, count: int, settings: Settings | None = None, seed: int = 1) -> None:
        self.now = 1000.0
        self.dice = random.Random(seed)
        self.policy = Policy(settings, clock=lambda: self.now, dice=self.dice.random)
        self.pods: dict[str, tuple[Outcome, bool] | None] = {f"10.0.0.{n}:80": None for n in range(1, count + 1)}
        self.touched: list[str] = []
        """Addresses in the order of all attempts."""
        self.busy: Busy = {}
        self._pool = self._made()

    @property
    def addresses(self) -> list[str]:
        return list(self.pods)

    def _made(self) -> Pool:
        row = EndpointsRow("ns/app", EndpointsState.KNOWN, tuple(map(endpoint, self.pods)))
        return Pool("app", row, "", self.busy, Position("unused", 1))

    def changed(self) -> None:
        """Replace the row by the current `pods`."""
        self._pool = self._made()

    def look_up(self) -> Callee:
        return _Called(self._pool)

    def attempts(
        self,
        *,
        idempotent: bool = False,
        attempts: int | None = None,
        deadline: float | None = None,
        key: str | None = None,
    ) -> Attempts:
        return Attempts(
            self.policy, self.look_up, idempotent=idempotent, attempts=attempts, deadline=deadline, key=key, model="m"
        )

    def call(
        self, *, idempotent: bool = False, key: str | None = None, attempts: int | None = None
    ) -> str | CallFailed:
        """Make one call; return the address that answered, or the error."""
        call = self.attempts(idempotent=idempotent, key=key, attempts=attempts)
        try:
            while True:
                attempt = call.next()
                self.touched.append(attempt.address)
                fate = self.pods[attempt.address]
                if fate is None:
                    attempt.succeeded()
                    attempt.release()
                    return attempt.address
                attempt.failed(fate[0], "told", sent=fate[1])
        except CallFailed as error:
            return error

    def calls(self, count: int, per_second: float = 200.0, **options: bool) -> list[str | CallFailed]:
        """Make `count` calls at an even rate; return their results."""
        return list(self.each_call(count, per_second, **options))

    def each_call(self, count: int, per_second: float = 200.0, **options: bool) -> Iterator[str | CallFailed]:
        for _ in range(count):
            self.now += 1 / per_second
            yield self.call(**options)  # type: ignore[arg-type]
