"""`AsyncTransport`: calls models for `httpx.AsyncClient`, from any task."""

from __future__ import annotations

import ssl
import types
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Self, TypeVar

import anyio
import httpcore
import httpx

from shmroute.calls import Attempt
from shmroute.contrib.httpx.base import (
    FAILURES,
    AddressPool,
    Call,
    Sending,
    TransportBase,
    current_sending,
    end_of,
    is_read_ahead,
    reraise_misuse,
    translated,
    use_own_timeouts,
)

T = TypeVar("T")


class _AsyncStream(httpcore.AsyncNetworkStream):
    """A connection that notes that something has been sent. At the deadline, the caller's cancel scope ends the I/O."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:
            await self._stream.write(buffer, timeout)
            sending = current_sending.get()
            if sending is not None:
                sending.sent = True

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _AsyncStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))


class _AsyncBackend(httpcore.AnyIOBackend):
    async def connect_tcp(self, *arguments: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return _AsyncStream(await super().connect_tcp(*arguments, **options))


class _AsyncBody(httpx.AsyncByteStream):
    """The body of an answer. The pod counts as busy until the body is closed."""

    def __init__(
        self, transport: AsyncTransport, call: Call, attempt: Attempt, pool: AddressPool, stream: Any, sending: Sending
    ) -> None:
        self._transport = transport
        self._call = call
        self._attempt = attempt
        self._pool: AddressPool | None = pool
        self._stream = stream
        self._sending = sending

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._stream if self._sending.ends is None else self._in_time():
                yield part
        except FAILURES as error:
            said, outcome = translated(error)
            self._call.attempts.broke_off(self._attempt, outcome, str(said), said)

    async def _in_time(self) -> AsyncIterator[bytes]:
        parts = aiter(self._stream)
        while True:
            part = None
            with anyio.move_on_after(self._sending.left(None, httpcore.ReadTimeout)) as scope:
                part = await anext(parts, None)
            if scope.cancelled_caught:
                raise httpcore.ReadTimeout("the deadline has passed")
            if part is None:
                return
            yield part

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._attempt.release()
            pool, self._pool = self._pool, None
            if pool is not None:
                await self._transport.leave(pool)


class AsyncTransport(TransportBase, httpx.AsyncBaseTransport):
    """Calls models for `httpx.AsyncClient`; see `Transport`."""

    _pool_type = httpcore.AsyncConnectionPool
    _backend_type = _AsyncBackend

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the model's pods, one after another, until one answers."""
        for pool in self.gone_pools():
            if not pool.users:
                await pool.core.aclose()
        call = Call(self, request)
        while True:
            attempt = call.attempts.next()
            response = await self._try(call, attempt)
            if response is not None:
                return response

    async def _try(self, call: Call, attempt: Attempt) -> httpx.Response | None:
        """Make one attempt. Returns the response for the caller; None if the attempt failed and another one follows."""
        try:
            pool = self.pool_of(call, attempt.address)
        except BaseException:
            attempt.release()
            raise
        pool.users += 1
        sending = Sending(self.policy.clock, end_of(call, attempt))
        token = current_sending.set(sending)
        stays = False
        try:
            core_request = self.core_request(call, attempt)
            core = await self._in_time(pool.core.handle_async_request(core_request), sending)
            stream: httpx.AsyncByteStream | None = None
            try:
                if is_read_ahead(call, core):
                    stream = httpx.ByteStream(await self._in_time(core.aread(), sending))
                if not attempt.answered(core.status):
                    return None
                if stream is None:
                    use_own_timeouts(call, core_request)
                    sending.ends = call.attempts.ends
                    stream = _AsyncBody(self, call, attempt, pool, core.stream, sending)
                    stays = True
            finally:
                if not stays:
                    await core.aclose()
            return httpx.Response(
                core.status,
                headers=self.response_headers(call, attempt, core),
                stream=stream,
                extensions=self.response_extensions(attempt, core),
            )
        except FAILURES as error:
            self.failed(attempt, error, sending)
            return None
        except Exception as error:
            reraise_misuse(error, call.request)
            raise
        finally:
            current_sending.reset(token)
            if not stays:
                attempt.release()
                await self.leave(pool)

    async def _in_time(self, work: Awaitable[T], sending: Sending) -> T:
        """Return the result of `work`.

        Raises:
            httpcore.ReadTimeout: `work` has not ended before the attempt's deadline.
        """
        if sending.ends is None:
            return await work
        with anyio.move_on_after(max(0.0, sending.ends - sending.clock())):
            return await work
        raise httpcore.ReadTimeout("no answer in time")

    async def leave(self, pool: AddressPool) -> None:
        """Note that a request has ended; close the pool if its address has gone and nobody uses it."""
        pool.users -= 1
        if pool.gone and not pool.users:
            await pool.core.aclose()

    async def aclose(self) -> None:
        """Close all connections, those under way included, as httpx's own transport does."""
        while self.pools:
            await self.pools.popitem()[1].core.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: types.TracebackType | None = None,
    ) -> None:
        await self.aclose()
