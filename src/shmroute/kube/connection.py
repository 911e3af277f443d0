"""Raw requests to the API server, through urllib3's connection pool.

Called by `shmroute.sources.kubernetes` (streams) and by `shmroute.kube`'s writing side (requests). It
knows HTTP, authentication and TLS; it never knows what an AppModel is, never retries a request that the
server refused, and never logs a token. All failures of a request become `ApiError` here, and only here.

* Every request takes its credentials from the configuration; after a 401 the configuration is read again, once.
* Each reading of the configuration has its own TLS context, and a changed file is read before the next request, so a
  rotated CA counts at once. Idle connections are then dropped. After a TLS failure the configuration is read again,
  once.
* One deadline limits a whole request: credentials, DNS look-up, connect, the proxy's answer, TLS handshake, the
  answer's head, and its body unless it is streamed. The error names the step that took too long.
  A streamed body has a limit for each silence instead.
* Another thread can end every wait: `Abort` ends a request, `Stream.interrupt` ends one stream.
* All input from a peer is limited: 100 headers of 64 KiB (http.client's limits), bodies by `max_bytes`, Retry-After.
"""

from __future__ import annotations

import email.utils
import logging
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import urllib3

from shmroute.errors import ApiError, ConfigError
from shmroute.kube.abort import Abort, AbortedError, run_with_deadline
from shmroute.kube.configuration import ClusterConfiguration
from shmroute.kube.transport import CURRENT, Exchange
from shmroute.version import __version__

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS: Final = 5.0
"""Longest wait for connect, and for the TLS handshake, in seconds: well below the 30 s in which a dead peer must be
noticed."""

REQUEST_TIMEOUT_SECONDS: Final = 30.0
"""Longest time for one request and its answer, in seconds. The slowest normal answer, `504 too large`, takes 3 s."""

REQUEST_MAX_BYTES: Final = 1 << 24
"""Default for the largest answer of `Connection.request`: 16 MiB. etcd holds objects of up to 1.5 MiB."""

READ_BYTES: Final = 1 << 16
"""Size of one read of a stream: a page takes few calls, and the bytes stay in the processor's cache."""

ERROR_BODY_MAX_BYTES: Final = 1 << 16
"""Largest body of a refusal, in bytes; the rest is not read. A Status is far smaller."""

REPORTED_CHARACTERS: Final = 500
"""Longest text kept in an error from a peer's answer that is not a Status, in characters."""

RETRY_AFTER_MAX_SECONDS: Final = 3600.0
"""Longest Retry-After, in seconds; longer ones count as one hour: no API server sends them, and their sender may have
been replaced by then."""

USER_AGENT: Final = f"shmroute/{__version__}"


class Answer(msgspec.Struct, frozen=True):
    """A complete answer with a status below 400. `headers` ignores the case of names."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class Stream:
    """The body of one answer as it arrives. One thread reads and closes; any thread may `interrupt`."""

    def __init__(
        self, response: urllib3.BaseHTTPResponse, what: str, exchange: Exchange, abort: Abort | None = None
    ) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.interrupted = False
        """Whether `interrupt` was called: a later end or error is then no fault of the server."""
        self._response = response
        self._what = what
        self._exchange = exchange
        self._detach = abort.attach(self.interrupt) if abort else None

    def read(self) -> bytes:
        """Wait for bytes and return them, at most 64 KiB; b"" at the proper end.

        Raises `ApiError` with status 0 if the body is cut short, or if no byte arrives within the allowed silence.
        """
        try:
            return self._response.read1(READ_BYTES)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _no_answer(self._what, error) from error

    def read_all(self, what: str, max_bytes: int, deadline: float = float("inf")) -> bytes:
        """Read the rest of the body. `what` names the request in errors.

        Raises `ApiError` as `read` does, if the body is longer than `max_bytes`, or if it is incomplete at `deadline`,
        on the monotonic clock.
        """
        chunks: list[bytes] = []
        size = 0
        while chunk := self.read():
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                raise ApiError(what, 0, "TooLarge", f"the answer is longer than {max_bytes} bytes")
            if time.monotonic() > deadline:
                raise ApiError(what, 0, "Timeout", f"the answer was not complete in time, after {size} bytes")
        return b"".join(chunks)

    def allow_silence(self, seconds: float) -> None:
        """Set the longest wait of each later `read`, in seconds."""
        # Not through the response: after `Connection: close` it no longer has its connection.
        sock = self._exchange.sock
        if sock is not None:
            sock.settimeout(seconds)

    def interrupt(self) -> None:
        """End a blocked `read` at once, from any thread."""
        self.interrupted = True
        try:
            self._response.shutdown()
        except (OSError, ValueError, RuntimeError):
            # It is already closed, or read to its end with its connection back in the pool.
            log.debug("%s had ended before it was interrupted", self._what)

    def close(self) -> None:
        """Release the connection; called by the thread that reads."""
        if self._detach:
            self._detach()
        # A body read to its end has already returned its connection; any other connection must not be used again.
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Connection:
    """Sends requests to a cluster. Thread-safe; each running request has its own TCP connection.

    `kubeconfig` is a path (or several, as in KUBECONFIG); None searches for one and falls back to the pod's
    service account. Raises `ConfigError` if there is no usable configuration.
    """

    def __init__(self, kubeconfig: str | None = None, context: str | None = None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._lock = threading.Lock()
        self._cluster = ClusterConfiguration.load(kubeconfig, context)
        self._broken = ""
        """Reason why the changed configuration could not be read; each new reason is logged once."""

    @property
    def host(self) -> str:
        """The API server's address, such as `https://10.96.0.1:443`."""
        return self._cluster.host

    @property
    def namespace(self) -> str:
        """The default namespace of the context or of the pod."""
        return self._cluster.namespace

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        *,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
        max_bytes: int = REQUEST_MAX_BYTES,
        abort: Abort | None = None,
    ) -> Answer:
        """Send one request and read the whole answer.

        `path` begins with a slash and is already quoted (`path_of`). Raises `ApiError`: with the server's
        status, reason and message for 400 and above; with status 0 if no complete answer of at most `max_bytes`
        arrived in time.
        """
        what = f"{method} {path}"

        def work(exchange: Exchange) -> Answer:
            response = self._exchange(exchange, what, method, _url(path, query), body, content_type, timeout_seconds)
            exchange.step = "reading the answer"
            with Stream(response, what, exchange) as stream:
                return Answer(stream.status, stream.headers, stream.read_all(what, max_bytes))

        return _run(work, what, timeout_seconds, abort, discard=lambda _: None)

    def open(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        read_timeout_seconds: float,
        answer_timeout_seconds: float | None = None,
        accept: str = "application/json",
        abort: Abort | None = None,
    ) -> Stream:
        """GET a body to be read as it arrives. `read_timeout_seconds` limits each silence within it.

        `answer_timeout_seconds` limits the wait for its head; it defaults to the same. `accept` is the Accept
        header. Raises `ApiError` as `request` does. The caller closes the stream.
        """
        what = f"GET {path}"
        seconds = read_timeout_seconds if answer_timeout_seconds is None else answer_timeout_seconds

        def work(exchange: Exchange) -> tuple[urllib3.BaseHTTPResponse, Exchange]:
            return self._exchange(exchange, what, "GET", _url(path, query), None, "", seconds, accept), exchange

        response, exchange = _run(work, what, seconds, abort, discard=lambda late: late[0].close())
        stream = Stream(response, what, exchange, abort)
        stream.allow_silence(read_timeout_seconds)
        return stream

    def close(self) -> None:
        """Drop idle connections. Running requests continue, and this object stays usable."""
        self._cluster.drop_idle()

    def _exchange(
        self,
        exchange: Exchange,
        what: str,
        method: str,
        url: str,
        body: bytes | None,
        content_type: str,
        timeout_seconds: float,
        accept: str = "application/json",
    ) -> urllib3.BaseHTTPResponse:
        """Send a request; send it once more if reading the configuration again may help."""
        cluster = self._current()
        renewed = False
        while True:
            try:
                response = _send(cluster, method, url, body, content_type, timeout_seconds, accept)
            except ConfigError as error:
                raise ApiError(what, 0, "Credentials", str(error)) from error
            except urllib3.exceptions.SSLError as error:
                if renewed:
                    raise _no_answer(what, error) from error
                log.info("%s: TLS failed (%s): reading the configuration again", what, error)
                cluster, renewed = self._renew(cluster), True
                continue
            except urllib3.exceptions.ClosedPoolError:
                continue  # another thread has just dropped the idle connections
            except (urllib3.exceptions.HTTPError, OSError) as error:
                # Idle connections to a peer that failed are probably dead too.
                cluster.drop_idle()
                raise _no_answer(what, error) from error
            if response.status == HTTPStatus.UNAUTHORIZED and not renewed:
                response.close()
                log.info("%s: 401: reading the credentials again", what)
                cluster, renewed = self._renew(cluster), True
                exchange.step = "waiting for the credentials"
                continue
            if response.status >= HTTPStatus.MULTIPLE_CHOICES:
                exchange.step = f"reading the body of status {response.status}"
                raise _refusal(what, response)
            encoding = response.headers.get("Content-Encoding", "").strip().lower()
            if encoding not in ("", "identity"):
                response.close()
                said = f"the answer is encoded as {encoding[:80]!r}, which was not asked for: does a proxy compress it?"
                raise ApiError(what, 0, "Encoded", said)
            return response

    def _current(self) -> ClusterConfiguration:
        """Return the configuration; read it again if one of its files has changed."""
        cluster = self._cluster
        return self._renew(cluster) if cluster.changed() else cluster

    def _renew(self, seen: ClusterConfiguration) -> ClusterConfiguration:
        """Replace the configuration `seen` by a new reading. If that fails, `seen` stays in use."""
        with self._lock:
            if self._cluster is not seen:  # another thread has replaced it
                return self._cluster
            try:
                fresh = ClusterConfiguration.load(self._kubeconfig, self._context)
            except ConfigError as error:
                # Files are replaced one after the other: the next request tries again.
                if str(error) != self._broken:
                    self._broken = str(error)
                    log.warning("the changed configuration cannot be read, the old one is used on: %s", error)
                return seen
            self._broken = ""
            seen.drop_idle()
            self._cluster = fresh
            return fresh


def path_of(*segments: str) -> str:
    """Return a path of quoted segments: `path_of("apis", "iidp.com", "v1")` is `/apis/iidp.com/v1`."""
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


def _url(path: str, query: Mapping[str, str] | None) -> str:
    return path + ("?" + urlencode(query) if query else "")


def _run(
    work: Callable[[Exchange], T],
    what: str,
    seconds: float,
    abort: Abort | None,
    discard: Callable[[T], object],
) -> T:
    """Run one exchange within its deadline. Raises `ApiError`."""
    exchange = Exchange()

    def run() -> T:
        CURRENT.set(exchange)
        return work(exchange)

    try:
        return run_with_deadline(run, seconds=seconds, abort=abort, discard=discard)
    except AbortedError:
        exchange.cut()
        raise ApiError(what, 0, "Aborted", "ended by the caller") from None
    except TimeoutError:
        exchange.cut()
        raise ApiError(what, 0, "Timeout", f"timed out after {seconds:g} s: {exchange.step}") from None
    except RuntimeError as error:  # "can't start new thread"
        raise ApiError(what, 0, "NoThread", str(error)) from error
    except (KeyboardInterrupt, SystemExit):
        exchange.cut()
        raise


def _send(
    cluster: ClusterConfiguration,
    method: str,
    url: str,
    body: bytes | None,
    content_type: str,
    timeout_seconds: float,
    accept: str,
) -> urllib3.BaseHTTPResponse:
    pool, headers = cluster.authenticate()
    # Slightly more than the deadline, whose error names the step. An abandoned request ends by this limit.
    read_seconds = timeout_seconds + 1.0
    headers.update({"Accept": accept, "Accept-Encoding": "identity", "User-Agent": USER_AGENT})
    if body is not None:
        headers["Content-Type"] = content_type
    response: urllib3.BaseHTTPResponse = pool.urlopen(
        method,
        cluster.host + url,
        body=body,
        headers=headers,
        timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT_SECONDS, read_seconds), read=read_seconds),
        preload_content=False,
        decode_content=False,
        redirect=False,
        retries=False,
    )
    return response


def _no_answer(what: str, error: Exception) -> ApiError:
    """Return the `ApiError` of a request without an answer. urllib3's texts name hosts and causes, never headers."""
    if isinstance(error, urllib3.exceptions.ProxyError):
        return ApiError(what, 0, "ProxyError", f"the proxy did not connect us: {error.original_error}")
    return ApiError(what, 0, type(error).__name__, str(error))


class _Status(msgspec.Struct):
    """The fields we use of a Kubernetes `Status`; each may be missing."""

    reason: str = ""
    message: str = ""
    details: dict[str, Any] | None = None


_decode_status = msgspec.json.Decoder(_Status).decode


def _refusal(what: str, response: urllib3.BaseHTTPResponse) -> ApiError:
    """Return the `ApiError` of an answer of 300 and above; its body is a Status, or a proxy's text."""
    try:
        body = response.read(ERROR_BODY_MAX_BYTES)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        body = str(error).encode()
    finally:
        response.close()
    try:
        status = _decode_status(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        status = _Status(message=body.decode("utf-8", "replace").strip()[:REPORTED_CHARACTERS])
    reason = status.reason or response.reason or ""
    return ApiError(
        what,
        response.status,
        reason,
        status.message,
        retry_after_seconds=_retry_after(response.headers.get("Retry-After")),
        details=status.details,
    )


def _retry_after(value: str | None) -> float | None:
    """Return the seconds to wait, from either form of the header; None if it is missing or invalid."""
    if value is None:
        return None
    value = value.strip()
    try:
        if value.isdecimal():
            # Python refuses to parse thousands of digits, and a float cannot hold hundreds.
            seconds = float(value[:10]) if len(value) <= 10 else RETRY_AFTER_MAX_SECONDS
        else:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, seconds), RETRY_AFTER_MAX_SECONDS)
