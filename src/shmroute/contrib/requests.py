"""An adapter for requests that calls a model by its name.

    session = requests.Session()
    session.mount("http+model://", shmroute.contrib.requests.Adapter())
    session.post("http+model://iiot_dataservice/query", json=...)

requests encodes parameters only in URLs whose scheme begins with `http`: hence `http+model`. Names with characters
other than letters, digits, `-`, `_` and `.` need `url_for`. Failures are handled by the policy of `shmroute.calls`.

Options hold for all requests of an adapter. Mount adapters with other options at longer prefixes:

    session.mount("http+model://slow_model", Adapter(deadline=30))

The time left to the deadline limits each single read from the network, since requests and urllib3 have no other limit:
a pod that sends its answer byte by byte can exceed the deadline. httpx and aiohttp have no such gap.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

try:
    import requests
    from requests.adapters import BaseAdapter, HTTPAdapter
    from urllib3.exceptions import MaxRetryError, NewConnectionError
except ImportError as error:
    raise ImportError("shmroute.contrib.requests needs requests: pip install 'shmroute[requests]'") from error

from shmroute.calls import Attempt, Attempts, Outcome, Policy, default_policy, joined, urls
from shmroute.calls.attempts import shorter
from shmroute.errors import CallFailed, CallTimedOut, ShmrouteError
from shmroute.worker.default import resolve
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route

__all__ = ["Adapter", "url_for"]

SCHEME: Final = "http+model"

SWEEP_SECONDS: Final = 1.0
"""Shortest time between two searches for connections to close because their address has gone."""

Key: TypeAlias = Callable[[requests.PreparedRequest], "str | bytes | None"]

_FAILURES: Final = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def url_for(model: str, path: str = "/") -> str:
    """Return the URL of a model. Its name may have any characters.

    Args:
        model: the model's name.
        path: path and query.

    Raises:
        ValueError: the name is empty, or the path does not begin with a slash.
    """
    return f"{SCHEME}://{urls.host_of(model)}{urls.check_path(path)}"


def _raises(kind: type[CallFailed], cause: BaseException | None) -> type[CallFailed]:
    if issubclass(kind, CallTimedOut):
        return joined(kind, type(cause) if isinstance(cause, requests.Timeout) else requests.Timeout)
    return joined(kind, type(cause) if isinstance(cause, requests.RequestException) else requests.ConnectionError)


def _how(error: requests.RequestException) -> tuple[Outcome, bool]:
    """Return how an attempt has failed, and whether its request may have reached the pod."""
    if isinstance(error, requests.ConnectTimeout):
        return Outcome.CONNECT_TIMEOUT, False
    if isinstance(error, requests.Timeout):
        return Outcome.TIMEOUT, True
    said = error.args[0] if error.args else None
    reason = said.reason if isinstance(said, MaxRetryError) else said
    if isinstance(reason, NewConnectionError) or "CERTIFICATE_VERIFY_FAILED" in str(reason):
        return Outcome.REFUSED, False
    return Outcome.BROKEN, True


class _Below(HTTPAdapter):
    """The connections to one address."""

    def __init__(self, server_hostname: str | None, size: int) -> None:
        self._tls = {} if server_hostname is None else {"server_hostname": server_hostname}
        super().__init__(pool_connections=1, pool_maxsize=size, max_retries=0)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        if self._tls:
            options |= {**self._tls, "assert_hostname": self._tls["server_hostname"]}
        super().init_poolmanager(*arguments, **options)


class Adapter(BaseAdapter):
    """Calls models for `requests.Session`.

    Args:
        scheme: the scheme of the pods' URLs: "http" or "https".
        server_hostname: for https, the name that the pods' certificates must have: a name, or a function of the
            `Route`. By default the pod's address.
        deadline: seconds for all attempts of a call; None: only the request's own time-outs.
        attempts: maximum number of attempts; by default the policy's (3).
        repeat: whether a request may be sent again once a pod may have processed it; by default, whether its method is
            idempotent (RFC 9110).
        key: a function of the request: requests with the same key go to the same pod.
        pool_maxsize: connections kept open to each address, as for `requests.adapters.HTTPAdapter`.
        policy: the settings and the knowledge about failing pods; by default shared by the whole process.
        reader: the reader that looks names up; by default that of `shmroute.resolve`.

    Raises:
        ConfigError: an argument cannot be used as given.

    Requests raise `CallFailed`, each of which is a `requests.ConnectionError` or `requests.Timeout` too. With
    `stream=True` the pod counts as busy until the headers have come. Proxies are not used.
    """

    def __init__(
        self,
        *,
        scheme: str = "http",
        server_hostname: urls.ServerHostname = None,
        deadline: float | None = None,
        attempts: int | None = None,
        repeat: bool | None = None,
        key: Key | None = None,
        pool_maxsize: int = 10,
        policy: Policy | None = None,
        reader: Reader | None = None,
    ) -> None:
        super().__init__()
        urls.check_scheme(scheme, server_hostname)
        self.policy = policy or default_policy()
        self.pools: dict[str, tuple[_Below, Route]] = {}
        """Address -> its connections, and a route of the app that has the address."""
        self._scheme = scheme
        self._server_hostname = server_hostname
        self._deadline = deadline
        self._attempts = attempts
        self._repeat = repeat
        self._key = key
        self._pool_maxsize = pool_maxsize
        self._resolve = resolve if reader is None else reader.resolve
        self._lock = threading.Lock()
        self._swept = self.policy.clock()

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,  # noqa: ARG002 - the signature of requests
    ) -> requests.Response:
        """Send a request to the model's pods, one after another, until one answers."""
        self._close_gone()
        url = urlsplit(request.url or "")
        host = url.netloc.rpartition("@")[2]
        if ":" in host:
            raise requests.exceptions.InvalidURL(f"{request.url}: the URL of a model has no port: each pod has its own")
        model = urls.model_of(host)
        call = Attempts(
            self.policy,
            partial(self._resolve, model),
            attempts=self._attempts,
            idempotent=request.method in urls.IDEMPOTENT_METHODS if self._repeat is None else self._repeat,
            deadline=self._deadline,
            key=self._key and self._key(request),
            model=model,
            raises=_raises,
        )
        if call.repeatable and not isinstance(request.body, bytes | str | None):
            call.repeatable = False
            call.unrepeatable = "its body cannot be read twice"
        while True:
            attempt = call.next()
            try:
                below = self._below(attempt.address, call.route)
                sent = request.copy()
                target = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
                sent.url = f"{self._scheme}://{attempt.address}{target}"
                options = {"stream": True, "timeout": _shortened(timeout, attempt), "verify": verify, "cert": cert}
                try:
                    response = below.send(sent, **options)
                    if not stream:
                        response.content  # noqa: B018 - read here: the request may be repeated if it breaks off
                except _FAILURES as error:
                    outcome, may_be_sent = _how(error)
                    attempt.failed(outcome, error, sent=may_be_sent, cause=error)
                    continue
                if not attempt.answered(response.status_code):
                    response.close()
                    continue
                self._hand_over(call, attempt, request, response, sent.url)
                return response
            finally:
                attempt.release()

    def _hand_over(
        self,
        call: Attempts,
        attempt: Attempt,
        request: requests.PreparedRequest,
        response: requests.Response,
        sent: str,
    ) -> None:
        """Make the response look like the model's; a redirect that names the pod leads back to the model."""
        response.request = request
        response.url = request.url or ""
        response.connection = self  # type: ignore[assignment]
        location = response.headers.get("location")
        if location is not None and 300 <= response.status_code < 400:
            own = (attempt.address, str(request.headers.get("Host", "")))
            root = f"{SCHEME}://{urlsplit(request.url or '').netloc or urls.host_of(call.model)}"
            response.headers["location"] = urls.led_back(location, sent, own, root)

    # --- pools ---------------------------------------------------------------------------------------------

    def _below(self, address: str, route: Route) -> _Below:
        known = self.pools.get(address)
        if known is None:
            name = urls.name_in_certificate(self._server_hostname, route)
            with self._lock:
                known = self.pools.setdefault(address, (_Below(name, self._pool_maxsize), route))
        if known[1] is not route:
            self.pools[address] = known = (known[0], route)
        return known[0]

    def _close_gone(self) -> None:
        """Close the kept connections of addresses that have gone. Cheap when called often."""
        now = self.policy.clock()
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        for address, (below, route) in list(self.pools.items()):
            try:
                gone = address not in route.current_pool().by_address
            except ShmrouteError:  # the area cannot be read at the moment: keep all connections
                return
            if gone:
                self.pools.pop(address, None)
                below.close()  # a request under way keeps its connection to its end

    def close(self) -> None:
        """Close all kept connections."""
        while self.pools:
            self.pools.popitem()[1][0].close()


def _shortened(timeout: Any, attempt: Attempt) -> Any:
    """Return the caller's time-outs, shortened to those of the attempt."""
    if attempt.seconds is None and attempt.connect_seconds is None:
        return timeout
    if hasattr(timeout, "connect_timeout"):  # urllib3's Timeout
        timeout = (timeout.connect_timeout, timeout.read_timeout)
    connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    return shorter(connect, attempt.connect_seconds), shorter(read, attempt.seconds)
