"""Parts of both transports that do no I/O: a call's attempts, the connections to each address, requests and answers.

`shmroute.contrib.httpx.transport` and `async_transport` build on this; nothing else imports it.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import partial
from typing import Any, ClassVar, Final, TypeAlias

import httpcore
import httpx

from shmroute.calls import Attempt, Attempts, Outcome, Policy, default_policy, joined, urls
from shmroute.calls.attempts import shorter
from shmroute.errors import CallFailed, CallTimedOut, ShmrouteError
from shmroute.worker.default import resolve
from shmroute.worker.reader import Reader

SWEEP_SECONDS: Final = 1.0
"""Shortest time between two searches for pools to close because their address has gone."""

_DEFAULT_LIMITS: Final = httpx.Limits(max_connections=100, max_keepalive_connections=20)
"""The defaults of httpx, applied to each address."""

Headers: TypeAlias = list[tuple[bytes, bytes]]


class Sending:
    """Shared by an attempt and its network streams: the deadline, and whether anything has been sent."""

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


current_sending: ContextVar[Sending | None] = ContextVar("current_sending", default=None)
"""State of the attempt for which this thread or task reads and writes."""


class AddressPool:
    """The connections to one address."""

    def __init__(self, core: Any, route: Any) -> None:
        self.core = core
        self.users = 0
        """Number of requests under way: a pool whose address has gone is closed after the last one."""
        self.gone = False
        self.route = route
        """Route of the last call to the address: its app says when the address has gone."""


class Call:
    """One request of the caller."""

    def __init__(self, transport: TransportBase, request: httpx.Request) -> None:
        extensions = request.extensions
        url = request.url
        named = extensions.get("model")
        if named is None:
            if url.port is not None:
                raise httpx.UnsupportedProtocol(
                    f"{url}: the URL of a model has no port: each pod has its own", request=request
                )
            default_host = url.raw_host
            self.model = urls.model_of(url.host)
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
        idempotent = request.method in urls.IDEMPOTENT_METHODS
        attempts = self.attempts = Attempts(
            transport.policy,
            partial(transport.resolve, self.model),
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

FAILURES: Final = tuple(_ERRORS)

_MISUSES: Final = {
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
}
"""Errors of httpcore for requests that no pod could be sent -> the error of httpx."""


def translated(error: Exception) -> tuple[httpx.TransportError, Outcome]:
    """Return the error of httpx for a pod's failure, and the outcome of the attempt."""
    kind, outcome = _ERRORS[type(error)]
    said: httpx.TransportError = kind(str(error) or type(error).__name__)
    said.__cause__ = error
    return said, outcome


class TransportBase:
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
        server_hostname: urls.ServerHostname = None,
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
        urls.check_scheme(scheme, server_hostname)
        self.policy = policy or default_policy()
        self.deadline = deadline
        self.resolve = resolve if reader is None else reader.resolve
        self.pools: dict[str, AddressPool] = {}
        """Address -> its pool of connections."""
        self._scheme = scheme
        self._server_hostname = server_hostname
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

    def pool_of(self, call: Call, address: str) -> AddressPool:
        """Return the pool of an address that has just been picked."""
        pool = self.pools.get(address)
        if pool is None:
            core = self._pool_type(**self._pool_options, network_backend=self._backend_type())
            pool = self.pools.setdefault(address, AddressPool(core, call.attempts.route))
        pool.route = call.attempts.route
        return pool

    def gone_pools(self) -> list[AddressPool]:
        """Remove and return the pools whose address has gone from the app. Cheap when called often."""
        now = self.policy.clock()
        if now - self._swept < SWEEP_SECONDS:
            return []
        self._swept = now
        pools = list(self.pools.items())
        try:
            gone = [address for address, pool in pools if address not in pool.route.current_pool().by_address]
        except ShmrouteError:  # the area cannot be read at the moment: keep all pools
            return []
        removed = [pool for address in gone if (pool := self.pools.pop(address, None)) is not None]
        for pool in removed:
            pool.gone = True
        return removed

    # --- one attempt ---------------------------------------------------------------------------------------

    def core_request(self, call: Call, attempt: Attempt) -> httpcore.Request:
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

    def _extensions(self, call: Call, attempt: Attempt) -> dict[str, Any]:
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
                timeouts[name] = shorter(timeouts.get(name), limit)
            changed = {**changed, "timeout": timeouts}
        if self._server_hostname is not None and "sni_hostname" not in changed:
            changed = {**changed, "sni_hostname": urls.name_in_certificate(self._server_hostname, call.attempts.route)}
        return changed

    def failed(self, attempt: Attempt, error: Exception, sending: Sending) -> None:
        """Note how an attempt has failed."""
        said, outcome = translated(error)
        attempt.failed(outcome, said, sent=sending.sent, cause=said)

    def response_headers(self, call: Call, attempt: Attempt, core: httpcore.Response) -> Headers:
        """Return the headers for the caller: a redirect that names the pod leads back to the model."""
        headers: Headers = core.headers
        if 300 <= core.status < 400:
            headers = list(headers)
            for index, (name, value) in enumerate(headers):
                if name.lower() == b"location":
                    headers[index] = (name, self._led_back(call, attempt, value))
                    call.extensions.pop("model", None)  # the new URL alone says whether, and which, model is called
        return headers

    def _led_back(self, call: Call, attempt: Attempt, location: bytes) -> bytes:
        host = next((value.decode("latin-1") for name, value in call.headers if name.lower() == b"host"), "")
        url = call.request.url.copy_with(path="/", query=None, fragment=None)
        if "model" in call.extensions:
            url = url.copy_with(host=urls.host_of(call.model), port=None)
        root = str(url)[:-1]
        sent_to = f"{self._scheme}://{attempt.address}{call.request.url.raw_path.decode('ascii')}"
        return urls.led_back(location.decode("latin-1"), sent_to, (attempt.address, host), root).encode("latin-1")

    def response_extensions(self, attempt: Attempt, core: httpcore.Response) -> dict[str, Any]:
        """Return the extensions of the response."""
        return {**core.extensions, "endpoint": attempt.address, "attempts": attempt.number}


def reraise_misuse(error: Exception, request: httpx.Request) -> None:
    """Raise the error of httpx if `error` says that the request itself is wrong."""
    kind = _MISUSES.get(type(error))
    if kind is not None:
        raise kind(str(error), request=request) from error


def is_read_ahead(call: Call, core: httpcore.Response) -> bool:
    """Return whether the body is read before the caller gets the response, so that a broken answer can be retried.

    The connection returns to its pool once the body has been read.
    """
    if not call.attempts.repeatable:
        return False
    length = next((value for name, value in core.headers if name.lower() == b"content-length"), b"")
    return length.isdigit() and int(length) <= urls.READ_AHEAD_BYTES


def use_own_timeouts(call: Call, core_request: httpcore.Request) -> None:
    """Apply the caller's own time-outs to the body: those of the attempt end when the answer begins."""
    timeouts = call.extensions.get("timeout")
    if core_request.extensions.get("timeout") is not timeouts:
        core_request.extensions["timeout"] = timeouts or {}


def end_of(call: Call, attempt: Attempt) -> float | None:
    """Return the deadline for the beginning of the answer, on the policy's clock."""
    return call.attempts.ends if attempt.seconds is None else attempt.started + attempt.seconds
