"""Waiting for the first snapshot in an ASGI worker, without holding up its event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from starlette.applications import Starlette

from shmroute import ConfigError, NotReady, resolve
from shmroute.contrib.asgi import Message, Ready, lifespan, ready
from shmroute.rows import Kind
from shmroute.shm.writing.publisher import Publisher
from shmroute.worker.default import use_area

LONG_SECONDS = 30.0


@pytest.fixture(autouse=True)
def _in_own_area(area: str) -> Iterator[None]:
    use_area(area)
    yield
    use_area(None)


async def until_ready_takes_turns(waiting: asyncio.Task[Any], area: str) -> None:
    """See that `waiting` waits while the loop turns, then publish, and see that it ends."""
    for _ in range(5):
        await asyncio.sleep(0.01)
        assert not waiting.done()
    with Publisher(area) as publisher:
        publisher.replace({(Kind.MODEL, "model"): b"row"})
        await asyncio.wait_for(waiting, LONG_SECONDS)


def test_ready_waits_without_blocking_the_event_loop(area: str) -> None:
    async def main() -> None:
        await until_ready_takes_turns(asyncio.create_task(ready(LONG_SECONDS)), area)

    asyncio.run(main())


def test_the_lifespan_waits_and_then_lets_the_server_start(area: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMROUTE_WAIT", str(LONG_SECONDS))

    async def main() -> None:
        async def start() -> None:
            async with lifespan(object()):
                pass

        await until_ready_takes_turns(asyncio.create_task(start()), area)

    asyncio.run(main())


def test_worker_without_routes_starts_and_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(ready(0.0))
    assert "no routes after 0 s, going on without" in caplog.text
    with pytest.raises(NotReady):
        resolve("model")


class Started:
    """An application that records its scopes and does not support lifespan, like Django's."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        self.scopes.append(scope["type"])
        if scope["type"] == "lifespan":
            raise ValueError("only http")


async def nothing(*_: object) -> Any:
    raise AssertionError("not called")


def test_wrapper_waits_at_start_up_and_passes_the_rest_on(area: str) -> None:
    inner = Started()
    application = Ready(inner)

    async def main() -> None:
        async def start() -> None:
            with suppress(ValueError):  # the application's, which tells the server that it knows no lifespan
                await application({"type": "lifespan"}, nothing, nothing)

        starting = asyncio.create_task(start())
        await asyncio.sleep(0)
        await application({"type": "http"}, nothing, nothing)
        assert inner.scopes == ["http"], "requests are not held up"
        await until_ready_takes_turns(starting, area)

    asyncio.run(main())
    assert inner.scopes == ["http", "lifespan"]


def test_wrapper_keeps_the_applications_own_lifespan(area: str) -> None:
    sent: list[str] = []

    async def receive() -> Message:
        return {"type": "lifespan.shutdown" if sent else "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    with Publisher(area) as publisher:
        publisher.replace({(Kind.MODEL, "model"): b"row"})
        asyncio.run(Ready(Starlette())({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_worker_loads_nothing_that_could_start_a_watcher() -> None:
    code = "import sys, shmroute.contrib.asgi; print([name for name in sys.modules if 'supervise' in name])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60) == "[]\n"


@pytest.mark.parametrize("wait", ["soon", "nan", "inf", "-1"])
def test_a_wait_that_is_not_a_number_of_seconds_is_named(monkeypatch: pytest.MonkeyPatch, wait: str) -> None:
    monkeypatch.setenv("SHMROUTE_WAIT", wait)
    with pytest.raises(ConfigError, match=f"SHMROUTE_WAIT={wait}"):
        asyncio.run(ready())
