"""Raw requests to the API server, through the official client's connection pool.

Called by `shmroute.sources.kubernetes` (streams) and by `shmroute.kube`'s writing side (requests). It
knows HTTP, authentication and TLS; it never knows what an AppModel is, never retries what the
server refused, and never logs a token. All of a request's failures become `ApiError` here, and only here.

* Credentials are asked of the configuration for every request; a 401 makes it be read again, once.
* A reading of the configuration has a TLS context of its own, and a changed file is read before the next request, so a
  rotated CA counts at once; idle connections are dropped then, and a TLS failure reads the configuration again, once.
* One deadline bounds all of a request: credentials, name look-up, connect, the proxy's answer, TLS handshake, the
  answer's head, and its body where it is read whole or is a refusal. The error names the step that took too long.
  A streamed body has a limit for each silence instead.
* Another thread can end every wait: `Abort` for whatever a request waits for, `Stream.interrupt` for one stream.
* What a peer sends is bounded: 100 headers of 64 KiB (http.client's limits), bodies by `max_bytes`, Retry-After.
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

__all__ = ["Abort", "Answer", "Connection", "Stream", "path_of"]

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS: Final = 5.0
"""At most, for connect and for the TLS handshake; well under the 30 s in which a dead peer must be noticed."""

REQUEST_TIMEOUT_SECONDS: Final = 30.0
"""For one answer as a whole. A server takes 3 s to say `504 too large`, the slowest sane answer there is."""

REQUEST_MAX_BYTES: Final = 1 << 24
"""Largest answer that `Connection.request` reads unless told otherwise, 16 MiB. etcd holds objects of up to 1.5 MiB."""

READ_BYTES: Final = 1 << 16
"""One read of a stream: large enough that a page takes few calls, small enough to stay in the processor's cache."""

ERROR_BODY_MAX_BYTES: Final = 1 << 16
"""Largest body of a refusal that is read, in bytes; a Status is far smaller."""

REPORTED_CHARACTERS: Final = 500
"""Longest text of a peer that is kept in an error where it is not a Status."""

RETRY_AFTER_MAX_SECONDS: Final = 3600.0
"""A longer Retry-After counts as one hour: whoever answers so is no API server, and may have been replaced by then."""

USER_AGENT: Final = f"shmroute/{__version__}"


class Answer(msgspec.Struct, frozen=True):
    """A complete answer with a status below 400. `headers` looks names up whatever their case."""

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
        """Whether `interrupt` was called: an end or an error after it says nothing about the server."""
        self._response = response
        self._what = what
        self._exchange = exchange
        self._detach = abort.attach(self.interrupt) if abort else None

    def read(self) -> bytes:
        """The bytes that are there, at most 64 KiB; waits for the first; b"" at the proper end.

        Raises `ApiError` with status 0 when the body is cut short or nothing comes within the allowed silence.
        """
        try:
            return self._response.read1(READ_BYTES)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _no_answer(self._what, error) from error

    def allow_silence(self, seconds: float) -> None:
        """Set how long each `read` may wait from now on."""
        # Not through the response: after `Connection: close` it has given its connection away.
        sock = self._exchange.sock
        if sock is not None:
            sock.settimeout(seconds)

    def interrupt(self) -> None:
        """End a blocked `read` at once, from any thread."""
        self.interrupted = True
        try:
            self._response.shutdown()
        except (OSError, ValueError, RuntimeError):
            # Already closed, or read to its end and its connection back in the pool.
            log.debug("%s had ended before it was interrupted", self._what)

    def close(self) -> None:
        """Let go of the connection; called by the thread that reads."""
        if self._detach:
            self._detach()
        # A body read to its end has put its connection back already; any other must not be used again.
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Connection:
    """A cluster to talk to. Thread-safe; each request in flight has a TCP connection of its own.

    `kubeconfig` is a path (or several, as in KUBECONFIG); None looks for one and falls back on the pod's
    service account. Raises `ConfigError` where there is no usable configuration.
    """

    def __init__(self, kubeconfig: str | None = None, context: str | None = None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._lock = threading.Lock()
        self._cluster = ClusterConfiguration.load(kubeconfig, context)
        self._broken = ""
        """Why the changed configuration could not be read last time: logged once for each reason."""

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

        `path` begins with a slash and is quoted already (`path_of`). Raises `ApiError`: the server's
        status, reason and message for 400 and above, status 0 where no complete answer of at most `max_bytes`
        came in time.
        """
        what = f"{method} {path}"

        def work(exchange: Exchange) -> Answer:
            response = self._exchange(exchange, what, method, _url(path, query), body, content_type, timeout_seconds)
            exchange.step = "reading the answer"
            with Stream(response, what, exchange) as stream:
                chunks: list[bytes] = []
                received = 0
                while chunk := stream.read():
                    chunks.append(chunk)
                    received += len(chunk)
                    if received > max_bytes:
                        raise ApiError(what, 0, "TooLarge", f"the answer has more than {max_bytes} bytes")
                return Answer(stream.status, stream.headers, b"".join(chunks))

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
        """GET a body to be read as it arrives. `read_timeout_seconds` bounds each silence within it.

        `answer_timeout_seconds` bounds the wait for its head, where that must be shorter. `accept` is the Accept
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
        """Drop idle connections. What is in flight goes on, and the connection stays usable."""
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
        """Send, and send once more where reading the configuration again may help."""
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
                continue  # another thread has dropped the idle connections just now
            except (urllib3.exceptions.HTTPError, OSError) as error:
                # Idle connections to a peer that failed are most likely dead as well.
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
            return response

    def _current(self) -> ClusterConfiguration:
        """The configuration, read again when one of its files has changed."""
        cluster = self._cluster
        return self._renew(cluster) if cluster.changed() else cluster

    def _renew(self, seen: ClusterConfiguration) -> ClusterConfiguration:
        """Replace the configuration that `seen` failed with. One that cannot be read leaves `seen` in use."""
        with self._lock:
            if self._cluster is not seen:  # another thread has been here
                return self._cluster
            try:
                fresh = ClusterConfiguration.load(self._kubeconfig, self._context)
            except ConfigError as error:
                # Files are replaced one after the other: the next request looks again.
                if str(error) != self._broken:
                    self._broken = str(error)
                    log.warning("the changed configuration cannot be read, the old one is used on: %s", error)
                return seen
            self._broken = ""
            seen.drop_idle()
            self._cluster = fresh
            return fresh


def path_of(*segments: str) -> str:
    """A path of segments, each quoted: `path_of("apis", "iidp.com", "v1")` is `/apis/iidp.com/v1`."""
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
    # A moment more than the deadline, which knows the name of the step. What was left behind ends by this limit.
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
    """A failure of the wire. urllib3's texts name hosts and causes, never headers."""
    if isinstance(error, urllib3.exceptions.ProxyError):
        return ApiError(what, 0, "ProxyError", f"the proxy did not connect us: {error.original_error}")
    return ApiError(what, 0, type(error).__name__, str(error))


class _Status(msgspec.Struct):
    """What matters of a Kubernetes `Status`; every field may be missing."""

    reason: str = ""
    message: str = ""
    details: dict[str, Any] | None = None


_decode_status = msgspec.json.Decoder(_Status).decode


def _refusal(what: str, response: urllib3.BaseHTTPResponse) -> ApiError:
    """The `ApiError` of an answer of 300 and above; its body is a Status, or some proxy's text."""
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
    """Seconds to wait, from either form of the header; None where there is none or it says nothing."""
    if value is None:
        return None
    value = value.strip()
    try:
        if value.isdecimal():
            # Python refuses to read thousands of digits, and a float cannot hold hundreds.
            seconds = float(value[:10]) if len(value) <= 10 else RETRY_AFTER_MAX_SECONDS
        else:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, seconds), RETRY_AFTER_MAX_SECONDS)
