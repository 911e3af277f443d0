"""ASGI applications: each worker waits for the first snapshot before it takes requests. Starts no watcher.

Starlette and FastAPI take a lifespan:

    app = Starlette(lifespan=shmroute.contrib.asgi.lifespan)

An application with a lifespan of its own waits in it:

    @asynccontextmanager
    async def lifespan(app):
        await shmroute.contrib.asgi.ready()
        ...

An application without a lifespan, such as Django's, is wrapped:

    application = shmroute.contrib.asgi.Ready(get_asgi_application())

The watcher comes from `shmroute run`, from the hooks of gunicorn or Granian, or from a sidecar. Waiting takes up to
`SHMROUTE_WAIT` seconds (10 unless set) and does not block the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from shmroute.contrib.waiting import pauses

__all__ = ["Ready", "lifespan", "ready"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


async def ready(seconds: float | None = None) -> None:
    """Wait until there are routes, at most `seconds` (`SHMROUTE_WAIT`, else 10). Without routes, log a warning."""
    for pause in pauses(seconds):
        await asyncio.sleep(pause)


@asynccontextmanager
async def lifespan(app: object) -> AsyncIterator[None]:  # noqa: ARG001 - frameworks pass it
    """Lifespan that waits until there are routes."""
    await ready()
    yield


class Ready:
    """Wraps an ASGI application: at the server's start-up it waits until there are routes; all else goes to `app`."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await ready()
        await self._app(scope, receive, send)
