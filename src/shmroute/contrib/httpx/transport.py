"""`Transport`: calls models for `httpx.Client`, from any thread."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

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


class _Stream(httpcore.NetworkStream):
    """A connection that ends reads and writes at the deadline, and notes that something has been sent."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        sending = current_sending.get()
        if sending is not None and sending.ends is not None:
            timeout = sending.left(timeout, httpcore.ReadTimeout)
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        sending = current_sending.get()
        if sending is None:
            self._stream.write(buffer, timeout)
        elif buffer:
            self._stream.write(buffer, sending.left(timeout, httpcore.WriteTimeout))
            sending.sent = True

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    def connect_tcp(self, *arguments: Any, **options: Any) -> httpcore.NetworkStream:
        return _Stream(super().connect_tcp(*arguments, **options))


class _Body(httpx.SyncByteStream):
    """The body of an answer. The pod counts as busy until the body is closed."""

    def __init__(
        self, transport: Transport, call: Call, attempt: Attempt, pool: AddressPool, stream: Any, sending: Sending
    ) -> None:
        self._transport = transport
        self._call = call
        self._attempt = attempt
        self._pool: AddressPool | None = pool
        self._stream = stream
        self._sending = sending

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream if self._sending.ends is None else self._in_time()
        except FAILURES as error:
            said, outcome = translated(error)
            self._call.attempts.broke_off(self._attempt, outcome, str(said), said)

    def _in_time(self) -> Iterator[bytes]:
        parts = iter(self._stream)
        while True:
            token = current_sending.set(self._sending)
            try:
                part = next(parts, None)
            finally:
                current_sending.reset(token)
            if part is None:
                return
            yield part

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._attempt.release()
            pool, self._pool = self._pool, None
            if pool is not None:
                self._transport.leave(pool)


class Transport(TransportBase, httpx.BaseTransport):
    """Calls models for `httpx.Client`. Its requests raise `CallFailed`, which is an `httpx.TransportError` here."""

    _pool_type = httpcore.ConnectionPool
    _backend_type = _Backend

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the model's pods, one after another, until one answers."""
        for pool in self.gone_pools():
            self.leave(pool, joined_before=False)
        call = Call(self, request)
        while True:
            attempt = call.attempts.next()
            response = self._try(call, attempt)
            if response is not None:
                return response

    def _try(self, call: Call, attempt: Attempt) -> httpx.Response | None:
        """Make one attempt. Returns the response for the caller; None if the attempt failed and another one follows."""
        pool = self._join(call, attempt)
        sending = Sending(self.policy.clock, end_of(call, attempt))
        token = current_sending.set(sending)
        stays = False
        try:
            core_request = self.core_request(call, attempt)
            core = pool.core.handle_request(core_request)
            stream: httpx.SyncByteStream | None = None
            try:
                if is_read_ahead(call, core):
                    stream = httpx.ByteStream(core.read())
                if not attempt.answered(core.status):
                    return None
                if stream is None:
                    use_own_timeouts(call, core_request)
                    sending.ends = call.attempts.ends
                    stream = _Body(self, call, attempt, pool, core.stream, sending)
                    stays = True
            finally:
                if not stays:
                    core.close()
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
                self.leave(pool)

    def _join(self, call: Call, attempt: Attempt) -> AddressPool:
        try:
            while True:
                pool = self.pool_of(call, attempt.address)
                with self._lock:
                    if not pool.gone:  # else another thread has just removed it
                        pool.users += 1
                        return pool
        except BaseException:
            attempt.release()
            raise

    def leave(self, pool: AddressPool, *, joined_before: bool = True) -> None:
        """Note that a request has ended or that the pool's address has gone; close the pool if nobody uses it."""
        with self._lock:
            pool.users -= joined_before
            closing = pool.gone and not pool.users
        if closing:
            pool.core.close()

    def close(self) -> None:
        """Close all connections, those under way included, as httpx's own transport does."""
        while self.pools:
            self.pools.popitem()[1].core.close()
