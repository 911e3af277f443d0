"""Raw requests to the API server, through the official client's configuration and connection pool.

Called by `shmroute.sources.kubernetes.source` (streams) and by `shmroute.kube`'s writing side (requests). It
knows HTTP, authentication and TLS; it never knows what an AppModel is, never retries what the
server refused, and never logs a token. All of a request's failures become `ApiError` here, and only here.

* Authentication is asked of the client for every request; a 401 makes the configuration be read again, once.
* A reading of the configuration has a TLS context of its own, and a changed file is read before the next request, so a
  rotated CA counts at once; idle connections are dropped then, and a TLS failure reads the configuration again, once.
* Every wait is finite, and another thread can end it: `Abort` for whatever a request waits for, including
  name look-up and connect, `Stream.interrupt` for one stream.
"""

from __future__ import annotations

import email.utils
import logging
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode

import msgspec
import urllib3

from shmroute.errors import ApiError, ConfigError
from shmroute.kube.configuration import ClusterConfiguration
from shmroute.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Abort", "Answer", "Connection", "Stream", "path_of"]

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 5.0
"""At most, for connect and TLS handshake; well under the 30 s in which a dead peer must be noticed."""

REQUEST_TIMEOUT_SECONDS = 30.0
"""For one answer as a whole. A server takes 3 s to say `504 too large`, the slowest sane answer there is."""

READ_BYTES = 1 << 16
"""One read of a stream: big enough that a page costs few calls, small enough to stay in the cache."""

ERROR_BODY_MAX_BYTES = 1 << 16
"""What is read of a refusal; a Status is far smaller."""

USER_AGENT = f"shmroute/{__version__}"


class Answer(msgspec.Struct, frozen=True):
    """A complete answer with a status below 400. `headers` looks names up whatever their case."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class Abort:
    """Ends, from another thread, whatever requests wait for. Once set it stays set."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[object, Callable[[], None]] = {}
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        with self._lock:
            self._set = True
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            callback()

    def attach(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when (or if already) set; the returned function takes it off again."""
        token = object()
        with self._lock:
            self._callbacks[token] = callback
            now = self._set
        if now:
            callback()

        def detach() -> None:
            with self._lock:
                self._callbacks.pop(token, None)

        return detach


class Stream:
    """The body of one answer as it arrives. One thread reads and closes; any thread may `interrupt`."""

    def __init__(self, response: urllib3.BaseHTTPResponse, what: str, abort: Abort | None) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.interrupted = False
        """Whether `interrupt` was called: an end or an error after it says nothing about the server."""
        self._response = response
        self._what = what
        self._detach = abort.attach(self.interrupt) if abort else None

    def read(self) -> bytes:
        """The bytes that are there, at most 64 KiB; waits for the first; b"" at the proper end.

        Raises `ApiError` with status 0 when the body is cut short or nothing comes within the read timeout.
        """
        try:
            return self._response.read1(READ_BYTES)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _no_answer(self._what, error) from error

    def allow_silence(self, seconds: float) -> None:
        """Set how long each `read` may wait from now on.

        An answer that says `Connection: close` has no reachable socket any more and keeps its first timeout.
        """
        connection = getattr(self._response, "connection", None)
        if connection is not None and connection.sock is not None:
            connection.sock.settimeout(seconds)

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
        abort: Abort | None = None,
    ) -> Answer:
        """Send one request and read the whole answer.

        `path` begins with a slash and is quoted already (`path_of`). Raises `ApiError`: the server's
        status, reason and message for 400 and above, status 0 where no complete answer came in time.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._open(method, path, query, body, content_type, timeout_seconds, abort) as stream:
            chunks: list[bytes] = []
            while chunk := stream.read():
                chunks.append(chunk)
                if time.monotonic() > deadline:
                    late = f"answer not complete in {timeout_seconds:g} s"
                    raise ApiError(f"{method} {path}", 0, "Timeout", late)
            return Answer(stream.status, stream.headers, b"".join(chunks))

    def open(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        read_timeout_seconds: float,
        answer_timeout_seconds: float | None = None,
        abort: Abort | None = None,
    ) -> Stream:
        """GET a body to be read as it arrives. `read_timeout_seconds` bounds each silence within it.

        `answer_timeout_seconds` bounds the wait for its head, where that must be shorter. Raises `ApiError` as
        `request` does. The caller closes the stream.
        """
        first = read_timeout_seconds if answer_timeout_seconds is None else answer_timeout_seconds
        stream = self._open("GET", path, query, None, "", first, abort)
        stream.allow_silence(read_timeout_seconds)
        return stream

    def close(self) -> None:
        """Drop idle connections. What is in flight goes on, and the connection stays usable."""
        self._cluster.client.rest_client.pool_manager.clear()

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
        read_timeout: float,
        abort: Abort | None,
    ) -> Stream:
        what = f"{method} {path}"
        url = path + ("?" + urlencode(query) if query else "")
        timeout = urllib3.Timeout(connect=min(CONNECT_TIMEOUT_SECONDS, read_timeout), read=read_timeout)

        def exchange() -> urllib3.BaseHTTPResponse:
            return self._exchange(what, method, url, body, content_type, timeout)

        if abort is None:
            return Stream(exchange(), what, None)
        return Stream(_abortable(exchange, what, abort), what, abort)

    def _exchange(
        self,
        what: str,
        method: str,
        url: str,
        body: bytes | None,
        content_type: str,
        timeout: urllib3.Timeout,
    ) -> urllib3.BaseHTTPResponse:
        """Send, and send once more where reading the configuration again may help."""
        cluster = self._current()
        renewed = False
        while True:
            try:
                response = self._send(cluster, method, url, body, content_type, timeout)
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
                cluster.client.rest_client.pool_manager.clear()
                raise _no_answer(what, error) from error
            if response.status == HTTPStatus.UNAUTHORIZED and not renewed:
                response.close()
                log.info("%s: 401: reading the credentials again", what)
                cluster, renewed = self._renew(cluster), True
                continue
            if response.status >= HTTPStatus.MULTIPLE_CHOICES:
                raise _refusal(what, response)
            return response

    def _send(
        self,
        cluster: ClusterConfiguration,
        method: str,
        url: str,
        body: bytes | None,
        content_type: str,
        timeout: urllib3.Timeout,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
        if body is not None:
            headers["Content-Type"] = content_type
        with self._lock:  # the client's token hooks are not made for several threads
            try:
                headers.update(cluster.authentication())
            except ConfigError as error:
                raise ApiError(f"{method} {url}", 0, "Credentials", str(error)) from error
        pool: Any = cluster.client.rest_client.pool_manager
        response: urllib3.BaseHTTPResponse = pool.urlopen(
            method,
            cluster.host + url,
            body=body,
            headers=headers,
            timeout=timeout,
            preload_content=False,
            decode_content=False,
            redirect=False,
            retries=False,
        )
        return response

    def _current(self) -> ClusterConfiguration:
        """The configuration, read again when one of its files has changed."""
        cluster = self._cluster
        return self._renew(cluster) if cluster.changed() else cluster

    def _renew(self, seen: ClusterConfiguration) -> ClusterConfiguration:
        """Replace the configuration that `seen` failed with; a broken one on disk leaves it in force."""
        with self._lock:
            if self._cluster is not seen:  # another thread has been here
                return self._cluster
            try:
                fresh = ClusterConfiguration.load(self._kubeconfig, self._context)
            except ConfigError as error:
                # Files are replaced one after the other: the next request looks again.
                log.warning("the changed configuration cannot be read, the old one stays: %s", error)
                return seen
            seen.client.rest_client.pool_manager.clear()
            self._cluster = fresh
            return fresh


def path_of(*segments: str) -> str:
    """A path of segments, each quoted: `path_of("apis", "iidp.com", "v1")` is `/apis/iidp.com/v1`."""
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


def _abortable(exchange: Callable[[], urllib3.BaseHTTPResponse], what: str, abort: Abort) -> urllib3.BaseHTTPResponse:
    """Run `exchange` where it can be left alone: name look-up and connect cannot be interrupted.

    A thread left behind ends by itself within the exchange's timeouts and closes what it got.
    """
    lock = threading.Lock()
    woken = threading.Event()
    outcome: list[urllib3.BaseHTTPResponse | Exception] = []
    left = False

    def run() -> None:
        result: urllib3.BaseHTTPResponse | Exception
        try:
            result = exchange()
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            result = error
        with lock:
            outcome.append(result)
            if left and not isinstance(result, Exception):
                result.close()
        woken.set()

    detach = abort.attach(woken.set)
    try:
        if not abort.is_set():
            threading.Thread(target=run, name="shmroute-request", daemon=True).start()
            woken.wait()
    finally:
        detach()
    with lock:
        left = not outcome
    if left:
        raise ApiError(what, 0, "Aborted", "ended by the caller")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _no_answer(what: str, error: Exception) -> ApiError:
    """A failure of the wire. urllib3's texts name hosts and causes, never headers."""
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
        status = _Status(message=body.decode("utf-8", "replace").strip()[:500])
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
    try:
        return max(0.0, float(int(value)))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
