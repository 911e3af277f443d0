"""Transports for httpx that call a model by its name.

    client = httpx.Client(mounts={"model://": shmroute.contrib.httpx.Transport()})
    client.post("model://iiot_dataservice/query", json=...)

    client = httpx.AsyncClient(mounts={"model://": shmroute.contrib.httpx.AsyncTransport()})

The host of the URL is the model's name. httpx lower-cases hosts and gives `:` a meaning: use `url_for`, which makes a
URL of any name, or `extensions={"model": name}`. Failures are handled by the policy of `shmroute.calls`.

A request may carry these extensions:

    model      str           the model's exact name, in place of the URL's host
    key        str or bytes  the same pod for the same key
    deadline   float         seconds for the whole call, its answer's body included
    attempts   int           maximum number of attempts
    repeat     bool          whether the request may be sent again once a pod may have processed it;
                             by default, whether its method is idempotent (RFC 9110)

A response has the extensions `endpoint` (the address that answered) and `attempts` (the number of attempts made).
"""

from __future__ import annotations

import ssl
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, ClassVar, Final, Self, TypeAlias, TypeVar

try:
    import anyio
    import httpcore
    import httpx
except ImportError as error:
    raise ImportError("shmroute.contrib.httpx needs httpx: pip install 'shmroute[httpx]'") from error

from shmroute.calls import Attempt, Attempts, Outcome, Policy, default_policy, joined
from shmroute.calls.urls import IDEMPOTENT_METHODS, READ_AHEAD_BYTES, host_of, led_back, model_of
from shmroute.errors import CallFailed, CallTimedOut, ConfigError, ShmrouteError
from shmroute.worker.default import resolve
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route

__all__ = ["AsyncTransport", "Transport", "url_for"]

SWEEP_SECONDS: Final = 1.0
"""Shortest time between two searches for pools to close because no called app has their address any more."""

_DEFAULT_LIMITS: Final = httpx.Limits(max_connections=100, max_keepalive_connections=20)
"""The defaults of httpx, applied to each address."""

ServerHostname: TypeAlias = str | Callable[[Route], str]
T = TypeVar("T")
Headers: TypeAlias = list[tuple[bytes, bytes]]


def url_for(model: str, path: str = "/") -> httpx.URL:
    """Return the URL of a model. Its name may have any characters.

    Args:
        model: the model's name.
        path: path and query.

    Raises:
        ValueError: the name is empty, or the path does not begin with a slash.
    """
    if not path.startswith("/"):
        raise ValueError(f"the path {path!r} does not begin with a slash")
    return httpx.URL(f"model://{host_of(model)}{path}")


# --- shared by both transports ----------------------------------------------------------------------------------------


class _Sending:
    """Shared by an attempt and its network streams: the deadline, and whether anything has been sent."""

    __slots__ = ("clock", "ends", "sent")

    def __init__(self, clock: Callable[[], float], ends: float | None) -> None:
        self.clock = clock
        self.ends = ends
        """Deadline of each read and write on the policy's clock, in seconds; None: no deadline."""
        self.sent = False
        """Whether the head of the request has been handed to the system, so that the pod may process the request."""

    def left(self, timeout: float | None, error: type[Exception]) -> float | None:
        """Return the time-out of the next read or write, in seconds."""
        if self.ends is None:
            return timeout
        left = self.ends - self.clock()
        if left <= 0:
            raise error("the deadline has passed")
        return left if timeout is None else min(timeout, left)


_sending: ContextVar[_Sending | None] = ContextVar("_sending", default=None)
"""State of the attempt for which this thread or task reads and writes."""


class _Pool:
    """The connections to one address."""

    __slots__ = ("apps", "core", "gone", "users")

    def __init__(self, core: Any) -> None:
        self.core = core
        self.users = 0
        """Number of requests under way: a pool whose address has gone is closed after the last one."""
        self.gone = False
        self.apps: set[str] = set()
        """`namespace/name` of the AppModels that have the address."""


class _Call:
    """One request of the caller."""

    __slots__ = ("attempts", "extensions", "headers", "host_index", "model", "request", "route")

    def __init__(self, transport: _Transport, request: httpx.Request) -> None:
        extensions = request.extensions
        url = request.url
        named = extensions.get("model")
        if named is None:
            if url.port is not None:
                raise httpx.UnsupportedProtocol(
                    f"{url}: write no port: each pod of a model has its own", request=request
                )
            default_host = url.raw_host
            self.model = model_of(url.host)
        elif isinstance(named, str):
            default_host = url.netloc
            self.model = named
        else:
            raise TypeError(f"the extension 'model' is a str, not {type(named).__name__}")
        self.request = request
        self.extensions = extensions
        self.headers: Headers = request.headers.raw
        self.host_index: int | None = None
        """Index of the `Host` header that httpx has set; None if the caller has set another one."""
        for index, (name, value) in enumerate(self.headers):
            if value == default_host and name.lower() == b"host":
                self.host_index = index
                break
        self.route: Route | None = None
        idempotent = request.method in IDEMPOTENT_METHODS
        resolve = transport.resolve

        def look_up() -> tuple[Route, Any]:
            route = self.route = resolve(self.model)
            return route, route.current_pool()

        attempts = self.attempts = Attempts(
            transport.policy,
            look_up,
            attempts=extensions.get("attempts"),
            idempotent=extensions.get("repeat", idempotent),
            deadline=extensions.get("deadline", transport.deadline),
            key=extensions.get("key"),
            model=self.model,
            raises=_raises,
        )
        if named is None:
            attempts.hint = _HINT
        if attempts.repeatable and not isinstance(request.stream, httpx.ByteStream):
            attempts.repeatable = False  # an iterator or a file: the first attempt may have read it to its end
            attempts.unrepeatable = "its body cannot be read twice"


_HINT: Final = " (httpx lower-cases the hosts of URLs: shmroute.contrib.httpx.url_for keeps a name as it is)"


def _raises(kind: type[CallFailed], cause: BaseException | None) -> type[CallFailed]:
    if issubclass(kind, CallTimedOut):
        return joined(kind, type(cause) if isinstance(cause, httpx.TimeoutException) else httpx.TimeoutException)
    return joined(kind, type(cause) if isinstance(cause, httpx.TransportError) else httpx.ConnectError)


_ERRORS: Final = {
    httpcore.ConnectTimeout: (httpx.ConnectTimeout, Outcome.CONNECT_TIMEOUT),
    httpcore.ConnectError: (httpx.ConnectError, Outcome.REFUSED),
    httpcore.PoolTimeout: (httpx.PoolTimeout, Outcome.NO_CONNECTION_FREE),
    httpcore.ReadTimeout: (httpx.ReadTimeout, Outcome.TIMEOUT),
    httpcore.WriteTimeout: (httpx.WriteTimeout, Outcome.TIMEOUT),
    httpcore.ReadError: (httpx.ReadError, Outcome.BROKEN),
    httpcore.WriteError: (httpx.WriteError, Outcome.BROKEN),
    httpcore.RemoteProtocolError: (httpx.RemoteProtocolError, Outcome.BROKEN),
}
"""Errors of httpcore that are a pod's failure -> the error of httpx, and the outcome of the attempt."""

_FAILURES: Final = tuple(_ERRORS)

_MISUSES: Final = {
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
}
"""Errors of httpcore for requests that no pod could be sent -> the error of httpx."""


def _translated(error: Exception) -> tuple[httpx.TransportError, Outcome]:
    kind, outcome = _ERRORS[type(error)]
    said: httpx.TransportError = kind(str(error) or type(error).__name__)
    said.__cause__ = error
    return said, outcome


class _Transport:
    """Base of both transports: the parts that do no I/O.

    Args:
        scheme: the scheme of the pods' URLs: "http" or "https".
        server_hostname: for https, the name that the pods' certificates must have: a name, or a function of the
            `Route`. By default the pod's address.
        deadline: seconds for a whole call without the extension `deadline`; None: only the client's time-outs.
        policy: the settings and the knowledge about failing pods; by default shared by the whole process.
        reader: the reader that looks names up; by default that of `shmroute.resolve`.
        verify, cert, trust_env, http1, http2, limits, local_address, socket_options: as for `httpx.HTTPTransport`.
            `limits` apply to each address. Proxies are not used.

    Raises:
        ConfigError: an argument cannot be used as given.
    """

    _pool_type: ClassVar[type[Any]]
    _backend_type: ClassVar[type[Any]]

    def __init__(
        self,
        *,
        scheme: str = "http",
        server_hostname: ServerHostname | None = None,
        deadline: float | None = None,
        policy: Policy | None = None,
        reader: Reader | None = None,
        verify: ssl.SSLContext | str | bool = True,
        cert: Any = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits = _DEFAULT_LIMITS,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> None:
        if scheme not in ("http", "https"):
            raise ConfigError(f"scheme is {scheme!r}: pods are called by 'http' or 'https'")
        if server_hostname is not None and scheme == "http":
            raise ConfigError("server_hostname is the name in the pods' certificates: it needs scheme='https'")
        self.policy = policy or default_policy()
        self.deadline = deadline
        self.resolve = resolve if reader is None else reader.resolve
        self.pools: dict[str, _Pool] = {}
        """Address -> its pool of connections."""
        self._scheme = scheme
        self._server_hostname = server_hostname
        self._routes: dict[str, Route] = {}
        """`namespace/name` of an AppModel -> a route of its app. Holds each app that has been called."""
        self._swept = self.policy.clock()
        self._lock = threading.Lock()
        """Held while threads count the users of a pool."""
        self._pool_options = {
            "ssl_context": httpx.create_ssl_context(verify, cert, trust_env) if scheme == "https" else None,
            "max_connections": limits.max_connections,
            "max_keepalive_connections": limits.max_keepalive_connections,
            "keepalive_expiry": limits.keepalive_expiry,
            "http1": http1,
            "http2": http2,
            "local_address": local_address,
            "socket_options": None if socket_options is None else list(socket_options),
        }

    # --- pools ---------------------------------------------------------------------------------------------

    def pool_of(self, call: _Call, address: str) -> _Pool:
        """Return the pool of an address that has just been picked."""
        route = call.route
        assert route is not None  # noqa: S101 - looked up before it was picked
        app = call.attempts.app_key
        pool = self.pools.get(address)
        if pool is None:
            core = self._pool_type(**self._pool_options, network_backend=self._backend_type())
            pool = self.pools.setdefault(address, _Pool(core))
        pool.apps.add(app)
        self._routes[app] = route
        return pool

    def gone_pools(self) -> list[_Pool]:
        """Remove and return the pools whose address no app has any more. Cheap when called often."""
        now = self.policy.clock()
        if now - self._swept < SWEEP_SECONDS:
            return []
        self._swept = now
        addresses: dict[str, set[str]] = {}
        for app, route in list(self._routes.items()):
            try:
                endpoints = route.endpoints
            except ShmrouteError:  # the area cannot be read at the moment: keep all pools
                return []
            if endpoints:
                addresses[app] = {str(endpoint) for endpoint in endpoints}
            else:
                self._routes.pop(app, None)
        gone = []
        for address, pool in list(self.pools.items()):
            pool.apps = {app for app in pool.apps if address in addresses.get(app, ())}
            if not pool.apps and self.pools.pop(address, None) is pool:
                pool.gone = True
                gone.append(pool)
        return gone

    # --- one attempt ---------------------------------------------------------------------------------------

    def core_request(self, call: _Call, attempt: Attempt) -> httpcore.Request:
        """Return the httpcore request for the pod, made from the caller's httpx request."""
        request = call.request
        endpoint = attempt.endpoint
        if call.host_index is not None:
            call.headers[call.host_index] = (b"Host", attempt.address.encode("ascii"))
        return httpcore.Request(
            request.method,
            httpcore.URL(
                scheme=self._scheme.encode(),
                host=endpoint.host.encode("ascii"),
                port=endpoint.port,
                target=request.url.raw_path,
            ),
            headers=call.headers,
            content=request.stream,
            extensions=self._extensions(call, attempt),
        )

    def _extensions(self, call: _Call, attempt: Attempt) -> dict[str, Any]:
        changed: dict[str, Any] = call.extensions
        if attempt.seconds is not None or attempt.connect_seconds is not None:
            limits = {
                "connect": attempt.connect_seconds,
                "read": attempt.seconds,
                "write": attempt.seconds,
                "pool": attempt.seconds,
            }
            timeouts: dict[str, float | None] = dict(call.extensions.get("timeout") or {})
            for name, limit in limits.items():
                own = timeouts.get(name)
                timeouts[name] = limit if own is None else own if limit is None else min(own, limit)
            changed = {**changed, "timeout": timeouts}
        hostname = self._server_hostname
        if hostname is not None and "sni_hostname" not in changed and call.route is not None:
            changed = {**changed, "sni_hostname": hostname if isinstance(hostname, str) else hostname(call.route)}
        return changed

    def failed(self, attempt: Attempt, error: Exception, sending: _Sending) -> None:
        """Note how an attempt has failed."""
        said, outcome = _translated(error)
        attempt.failed(outcome, said, sent=sending.sent, cause=said)

    def is_final(self, call: _Call, attempt: Attempt, status: int) -> bool:
        """Note the answer's status. Returns whether the caller gets this answer."""
        if status not in self.policy.settings.retriable_status_codes:
            attempt.succeeded()
            return True
        attempt.failed(Outcome.STATUS, str(status), sent=True)
        if call.attempts.may_go_on:
            return False
        call.attempts.answered_by_failure()
        return True

    def response_headers(self, call: _Call, attempt: Attempt, core: httpcore.Response) -> Headers:
        """Return the headers for the caller: a redirect that names the pod leads back to the model."""
        headers: Headers = core.headers
        if 300 <= core.status < 400:
            headers = list(headers)
            for index, (name, value) in enumerate(headers):
                if name.lower() == b"location":
                    headers[index] = (name, self._led_back(call, attempt, value))
                    call.extensions.pop("model", None)  # the new URL alone says whether, and which, model is called
        return headers

    def _led_back(self, call: _Call, attempt: Attempt, location: bytes) -> bytes:
        host = next((value.decode("latin-1") for name, value in call.headers if name.lower() == b"host"), "")
        url = call.request.url.copy_with(path="/", query=None, fragment=None)
        if "model" in call.extensions:
            url = url.copy_with(host=host_of(call.model), port=None)
        root = str(url)[:-1]
        sent_to = f"{self._scheme}://{attempt.address}{call.request.url.raw_path.decode('ascii')}"
        return led_back(location.decode("latin-1"), sent_to, (attempt.address, host), root).encode("latin-1")

    def response_extensions(self, attempt: Attempt, core: httpcore.Response) -> dict[str, Any]:
        """Return the extensions of the response."""
        return {**core.extensions, "endpoint": attempt.address, "attempts": attempt.number}


def _reraise_misuse(error: Exception, request: httpx.Request) -> None:
    """Raise the error of httpx if `error` says that the request itself is wrong."""
    kind = _MISUSES.get(type(error))
    if kind is not None:
        raise kind(str(error), request=request) from error


def _is_read_ahead(call: _Call, core: httpcore.Response) -> bool:
    """Return whether the body is read before the caller gets the response, so that a broken answer can be retried.

    The connection returns to its pool once the body has been read.
    """
    if not call.attempts.repeatable:
        return False
    length = next((value for name, value in core.headers if name.lower() == b"content-length"), b"")
    return length.isdigit() and int(length) <= READ_AHEAD_BYTES


def _body_timeouts(call: _Call, core_request: httpcore.Request) -> None:
    """Apply the caller's own time-outs to the body: those of the attempt end when the answer begins."""
    timeouts = call.extensions.get("timeout")
    if core_request.extensions.get("timeout") is not timeouts:
        core_request.extensions["timeout"] = timeouts or {}


# --- threads ----------------------------------------------------------------------------------------------------------


class _Stream(httpcore.NetworkStream):
    """A connection that ends reads and writes at the deadline, and notes that something has been sent."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        sending = _sending.get()
        if sending is not None and sending.ends is not None:
            timeout = sending.left(timeout, httpcore.ReadTimeout)
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        sending = _sending.get()
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
        self, transport: Transport, call: _Call, attempt: Attempt, pool: _Pool, stream: Any, sending: _Sending
    ) -> None:
        self._transport = transport
        self._call = call
        self._attempt = attempt
        self._pool: _Pool | None = pool
        self._stream = stream
        self._sending = sending

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream if self._sending.ends is None else self._in_time()
        except _FAILURES as error:
            said, outcome = _translated(error)
            self._call.attempts.broke_off(self._attempt, outcome, str(said), said)

    def _in_time(self) -> Iterator[bytes]:
        parts = iter(self._stream)
        while True:
            token = _sending.set(self._sending)
            try:
                part = next(parts, None)
            finally:
                _sending.reset(token)
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


class Transport(_Transport, httpx.BaseTransport):
    """Calls models for `httpx.Client`. Its requests raise `CallFailed`, which is an `httpx.TransportError` here."""

    _pool_type = httpcore.ConnectionPool
    _backend_type = _Backend

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the model's pods, one after another, until one answers."""
        for pool in self.gone_pools():
            self.leave(pool, joined_before=False)
        call = _Call(self, request)
        while True:
            attempt = call.attempts.next()
            response = self._try(call, attempt)
            if response is not None:
                return response

    def _try(self, call: _Call, attempt: Attempt) -> httpx.Response | None:
        """Make one attempt. Returns the response for the caller; None if the attempt failed and another one follows."""
        pool = self._join(call, attempt)
        sending = _Sending(self.policy.clock, _end_of(call, attempt))
        token = _sending.set(sending)
        stays = False
        try:
            core_request = self.core_request(call, attempt)
            core = pool.core.handle_request(core_request)
            stream: httpx.SyncByteStream | None = None
            try:
                if _is_read_ahead(call, core):
                    stream = httpx.ByteStream(core.read())
                if not self.is_final(call, attempt, core.status):
                    return None
                if stream is None:
                    _body_timeouts(call, core_request)
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
        except _FAILURES as error:
            self.failed(attempt, error, sending)
            return None
        except Exception as error:
            _reraise_misuse(error, call.request)
            raise
        finally:
            _sending.reset(token)
            if not stays:
                attempt.release()
                self.leave(pool)

    def _join(self, call: _Call, attempt: Attempt) -> _Pool:
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

    def leave(self, pool: _Pool, *, joined_before: bool = True) -> None:
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
        self._routes.clear()


def _end_of(call: _Call, attempt: Attempt) -> float | None:
    """Return the deadline for the beginning of the answer, on the policy's clock."""
    return call.attempts.ends if attempt.seconds is None else attempt.started + attempt.seconds


# --- tasks ------------------------------------------------------------------------------------------------------------


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
            sending = _sending.get()
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
        self, transport: AsyncTransport, call: _Call, attempt: Attempt, pool: _Pool, stream: Any, sending: _Sending
    ) -> None:
        self._transport = transport
        self._call = call
        self._attempt = attempt
        self._pool: _Pool | None = pool
        self._stream = stream
        self._sending = sending

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._stream if self._sending.ends is None else self._in_time():
                yield part
        except _FAILURES as error:
            said, outcome = _translated(error)
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


class AsyncTransport(_Transport, httpx.AsyncBaseTransport):
    """Calls models for `httpx.AsyncClient`; see `Transport`."""

    _pool_type = httpcore.AsyncConnectionPool
    _backend_type = _AsyncBackend

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the model's pods, one after another, until one answers."""
        for pool in self.gone_pools():
            if not pool.users:
                await pool.core.aclose()
        call = _Call(self, request)
        while True:
            attempt = call.attempts.next()
            response = await self._try(call, attempt)
            if response is not None:
                return response

    async def _try(self, call: _Call, attempt: Attempt) -> httpx.Response | None:
        """Make one attempt. Returns the response for the caller; None if the attempt failed and another one follows."""
        try:
            pool = self.pool_of(call, attempt.address)
        except BaseException:
            attempt.release()
            raise
        pool.users += 1
        sending = _Sending(self.policy.clock, _end_of(call, attempt))
        token = _sending.set(sending)
        stays = False
        try:
            core_request = self.core_request(call, attempt)
            core = await self._in_time(pool.core.handle_async_request(core_request), sending)
            stream: httpx.AsyncByteStream | None = None
            try:
                if _is_read_ahead(call, core):
                    stream = httpx.ByteStream(await self._in_time(core.aread(), sending))
                if not self.is_final(call, attempt, core.status):
                    return None
                if stream is None:
                    _body_timeouts(call, core_request)
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
        except _FAILURES as error:
            self.failed(attempt, error, sending)
            return None
        except Exception as error:
            _reraise_misuse(error, call.request)
            raise
        finally:
            _sending.reset(token)
            if not stays:
                attempt.release()
                await self.leave(pool)

    async def _in_time(self, work: Awaitable[T], sending: _Sending) -> T:
        """Return the result of `work`.

        Raises:
            httpcore.ReadTimeout: `work` has not ended before the attempt's deadline.
        """
        if sending.ends is None:
            return await work
        with anyio.move_on_after(max(0.0, sending.ends - sending.clock())):
            return await work
        raise httpcore.ReadTimeout("no answer in time")

    async def leave(self, pool: _Pool) -> None:
        """Note that a request has ended; close the pool if its address has gone and nobody uses it."""
        pool.users -= 1
        if pool.gone and not pool.users:
            await pool.core.aclose()

    async def aclose(self) -> None:
        """Close all connections, those under way included, as httpx's own transport does."""
        while self.pools:
            await self.pools.popitem()[1].core.aclose()
        self._routes.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: types.TracebackType | None = None,
    ) -> None:
        await self.aclose()
