"""What every server whose shutdown is ours does: what has been accepted is answered before it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

from shmroute.contrib import hypercorn, uvicorn
from tests.contrib.ending import SHORT_SECONDS, Serving, hypercorn_serving, uvicorn_serving
from tests.contrib.test_uvicorn import OnH11, OnHttpTools

Start = Callable[[], AbstractAsyncContextManager[Serving]]

each = pytest.mark.parametrize(
    "serving",
    [partial(uvicorn_serving, OnH11), partial(uvicorn_serving, OnHttpTools), hypercorn_serving],
    ids=["uvicorn-h11", "uvicorn-httptools", "hypercorn"],
)


@each
def test_a_request_on_a_connection_that_was_accepted_before_is_answered(serving: Start) -> None:
    async def main() -> None:
        async with serving() as here:
            connection = await here.connect()
            await here.shut_down()
            connection.send()
            assert await connection.answer() == (True, b"ok")
            assert await connection.is_closed()

    asyncio.run(main())


@each
def test_the_next_request_of_a_connection_is_answered_as_its_last(serving: Start) -> None:
    async def main() -> None:
        async with serving() as here:
            connection = await here.connect()
            connection.send()
            assert await connection.answer() == (False, b"ok")
            await here.shut_down()
            connection.send()
            assert await connection.answer() == (True, b"ok")
            assert await connection.is_closed()

    asyncio.run(main())


@each
def test_an_answer_that_has_not_begun_says_that_it_is_the_last(serving: Start) -> None:
    async def main() -> None:
        async with serving() as here:
            connection = await here.connect()
            connection.send(b"later")
            await here.entered.wait()
            await here.shut_down()
            here.go_on.set()
            assert await connection.answer() == (True, b"ok")
            assert await connection.is_closed()

    asyncio.run(main())


@each
def test_a_connection_on_which_nothing_comes_is_closed_and_does_not_keep_the_server(
    serving: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (hypercorn, uvicorn):
        monkeypatch.setattr(module, "LINGER_SECONDS", SHORT_SECONDS)

    async def main() -> None:
        async with serving() as here:
            connection = await here.connect()
            await here.shut_down()
            assert await connection.is_closed()

    asyncio.run(main())
