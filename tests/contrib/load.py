"""An even load of calls from a thread of its own, and the result of each call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from shmroute.calls import AttemptStarted, EndpointEjected, EndpointReturned, Event, Policy

METHODS = ("GET", "POST", "PUT", "POST")
"""Methods of the calls, used in turn; half of them are idempotent."""


class Amount(NamedTuple):
    """How much load a test makes: the quick tests leave CPU time to the pods and to other tests."""

    calls_per_second: int
    times: int
    """Factor of the numbers of calls that the test names."""


QUICK = Amount(calls_per_second=100, times=1)
FULL = Amount(calls_per_second=200, times=4)


class Result(NamedTuple):
    """The result of one call."""

    method: str
    status: int
    """HTTP status; 0 for an error."""
    endpoint: str
    error: Exception | None


class Send(Protocol):
    """Sends one request to model "m"; returns the status and the address that answered."""

    def __call__(self, method: str) -> Awaitable[tuple[int, str]]: ...


class Load:
    """Calls under way and their results."""

    def __init__(self, policy: Policy, client: Callable[[], Any], amount: Amount) -> None:
        self.amount = amount
        self.results: list[Result] = []
        self.attempts: list[str] = []
        """The address of each attempt, in order."""
        self.events: list[Event] = []
        """Ejections and returns of endpoints."""
        policy.listeners.append(self._hear)
        self._client = client
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def _hear(self, event: Event) -> None:
        if isinstance(event, AttemptStarted):
            self.attempts.append(event.endpoint)
        elif isinstance(event, EndpointEjected | EndpointReturned):
            self.events.append(event)

    async def _run(self) -> None:
        async with self._client() as send:
            tasks: set[asyncio.Task[None]] = set()
            number, began = 0, time.monotonic()
            while not self._stopped.is_set():
                task = asyncio.create_task(self._call(send, METHODS[number % len(METHODS)]))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
                await asyncio.sleep(max(0.0, began + number / self.amount.calls_per_second - time.monotonic()))
            if tasks:
                await asyncio.wait(tasks)

    async def _call(self, send: Send, method: str) -> None:
        try:
            status, endpoint = await send(method)
        except Exception as error:  # noqa: BLE001 - a result, which the test looks at
            self.results.append(Result(method, 0, "", error))
        else:
            self.results.append(Result(method, status, endpoint, None))

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Let it run until something is so."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"not so after {seconds} s; last results: {self.results[-5:]}"
            assert self._thread.is_alive()
            time.sleep(0.01)

    def run_for(self, calls: int) -> list[Result]:
        """Let the load run for this number of calls, times the amount's factor; return their results."""
        before, wanted = len(self.results), calls * self.amount.times
        self.wait_for(lambda: len(self.results) >= before + wanted, 30 + wanted / 20)
        return self.results[before:]

    @property
    def failed(self) -> list[Result]:
        """Calls that raised an error."""
        return [result for result in self.results if result.error is not None]


@contextmanager
def load(policy: Policy, client: Callable[[], Any], amount: Amount) -> Iterator[Load]:
    """Make calls by `client`, an asynchronous context manager that returns a `Send`, until the block ends."""
    made = Load(policy, client, amount)
    made._thread.start()
    try:
        yield made
    finally:
        made._stopped.set()
        made._thread.join()
