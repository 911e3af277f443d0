"""A middleware for aiohttp's client that calls a model by its name.

    async with aiohttp.ClientSession(middlewares=[shmroute.contrib.aiohttp.Failover()]) as session:
        await session.post("http://iiot_dataservice.model/query", json=...)

A host that ends with `.model` names a model; all other requests pass unchanged. yarl lower-cases hosts: `url_for` makes
a URL of any name. Failures are handled by the policy of `shmroute.calls`. For one request with other options:

    await session.post(url, middlewares=[failover.options(deadline=2.0, key="customer-17")])

Connections belong to the session's connector: those to a pod that has gone are not used again, and the connector closes
them after its `keepalive_timeout` (15 s). Set `aiohttp.ClientTimeout(sock_connect=1)`: by default, connecting to a node
that is gone takes 30 s, and this middleware cannot end it earlier as it cannot know that nothing has been sent yet.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeAlias

try:
    import aiohttp
    from aiohttp import ClientRequest, ClientResponse, hdrs
    from yarl import URL
except ImportError as error:
    raise ImportError("shmroute.contrib.aiohttp needs aiohttp: pip install 'shmroute[aiohttp]'") from error

from shmroute.calls import Attempt, Attempts, Outcome, Policy, default_policy, joined, urls
from shmroute.errors import CallFailed, CallTimedOut
from shmroute.worker.default import resolve
from shmroute.worker.reader import Reader

__all__ = ["Failover", "url_for"]

SUFFIX: Final = ".model"
"""End of a host that names a model. There is no top-level domain of this name."""

Handler: TypeAlias = Callable[[ClientRequest], Awaitable[ClientResponse]]

_UNSENT: Final = "Cannot write to closing transport"
"""Text of aiohttp's error for a kept-alive connection that closed before the request's first byte was written."""


def url_for(model: str, path: str = "/") -> URL:
    """Return the URL of a model. Its name may have any characters.

    Args:
        model: the model's name.
        path: path and query.

    Raises:
        ValueError: the name is empty, or the path does not begin with a slash.
    """
    return URL(f"http://{urls.host_of(model)}{SUFFIX}{urls.check_path(path)}", encoded=True)


def _raises(kind: type[CallFailed], _: BaseException | None) -> type[CallFailed]:
    # Not the class of the cause: after a ClientOSError or ServerDisconnectedError aiohttp itself would send again.
    theirs = aiohttp.ServerTimeoutError if issubclass(kind, CallTimedOut) else aiohttp.ClientConnectionError
    return joined(kind, theirs)


def _how(error: BaseException) -> tuple[Outcome, bool]:
    """Return how an attempt has failed, and whether its request may have reached the pod."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return Outcome.CONNECT_TIMEOUT, False
        case aiohttp.ClientConnectorError() | aiohttp.ServerFingerprintMismatch() | ssl.CertificateError():
            return Outcome.REFUSED, False
        case TimeoutError():
            return Outcome.TIMEOUT, True
        case _:
            return Outcome.BROKEN, _UNSENT not in str(error)


def _note_body(call: Attempts, request: ClientRequest) -> None:
    """Note whether the request's body has been read to its end and cannot be read again."""
    if request.body and request.body.consumed:
        call.repeatable = False
        call.unrepeatable = "its body cannot be read twice"


async def _read_ahead(call: Attempts, response: ClientResponse) -> None:
    """Wait until a short answer to a repeatable request is in the buffer, where the caller reads it.

    Raises:
        aiohttp.ClientError: the answer broke off.
    """
    length = response.headers.get(hdrs.CONTENT_LENGTH, "")
    if (
        call.repeatable
        and length.isdigit()
        and int(length) <= urls.READ_AHEAD_BYTES
        and hdrs.CONTENT_ENCODING not in response.headers  # the unpacked body may exceed the buffer
    ):
        error = response.content.exception()
        if error is not None:
            raise error
        await response.content.wait_eof()


class Failover:
    """Calls models for `aiohttp.ClientSession(middlewares=[Failover()])`.

    Args:
        scheme: the scheme of the pods' URLs: "http" or "https".
        server_hostname: for https, the name that the pods' certificates must have: a name, or a function of the
            `Route`. By default the pod's address.
        deadline: seconds for the whole call; None: only the session's time-outs.
        attempts: maximum number of attempts; by default the policy's (3).
        repeat: whether a request may be sent again once a pod may have processed it; by default, whether its method is
            idempotent (RFC 9110).
        key: requests with the same key go to the same pod.
        policy: the settings and the knowledge about failing pods; by default shared by the whole process.
        reader: the reader that looks names up; by default that of `shmroute.resolve`.

    Raises:
        ConfigError: an argument cannot be used as given.

    Requests raise `CallFailed`, each of which is an `aiohttp.ClientConnectionError` too. A body that comes after the
    deadline is cut off with a `ClientConnectionError`. A redirect to a pod's own address is followed to that pod alone.
    """

    def __init__(
        self,
        *,
        scheme: str = "http",
        server_hostname: urls.ServerHostname = None,
        deadline: float | None = None,
        attempts: int | None = None,
        repeat: bool | None = None,
        key: str | bytes | None = None,
        policy: Policy | None = None,
        reader: Reader | None = None,
    ) -> None:
        urls.check_scheme(scheme, server_hostname)
        self._options: dict[str, Any] = {
            "scheme": scheme,
            "server_hostname": server_hostname,
            "deadline": deadline,
            "attempts": attempts,
            "repeat": repeat,
            "key": key,
            "policy": policy,
            "reader": reader,
        }
        self._policy = policy or default_policy()
        self._resolve = resolve if reader is None else reader.resolve

    def options(self, **changed: Any) -> Failover:
        """Return a `Failover` with some arguments changed, for one request."""
        return Failover(**{**self._options, **changed})

    async def __call__(self, request: ClientRequest, handler: Handler) -> ClientResponse:
        """Send a request to the model's pods, one after another, until one answers."""
        url = request.original_url
        host = url.raw_host or ""
        if not host.endswith(SUFFIX):
            return await handler(request)
        if url.explicit_port is not None:
            raise aiohttp.InvalidURL(url, "the URL of a model has no port: each pod has its own")
        model = urls.model_of(host.removesuffix(SUFFIX))
        repeat = self._options["repeat"]
        call = Attempts(
            self._policy,
            partial(self._resolve, model),
            attempts=self._options["attempts"],
            idempotent=request.method in urls.IDEMPOTENT_METHODS if repeat is None else repeat,
            deadline=self._options["deadline"],
            key=self._options["key"],
            model=model,
            raises=_raises,
        )
        call.hint = " (hosts of URLs are lower-case: shmroute.contrib.aiohttp.url_for keeps a name as it is)"
        default_host = url.host_port_subcomponent
        own_host = request.headers.get(hdrs.HOST)
        while True:
            attempt = call.next()
            try:
                self._direct(request, attempt, call.route, default_host, own_host)
                response = await self._try(call, attempt, request, handler)
            except BaseException:
                attempt.release()
                raise
            if response is not None:
                return response

    def _direct(
        self, request: ClientRequest, attempt: Attempt, route: Any, default_host: str | None, own_host: str | None
    ) -> None:
        """Point the request at the pod."""
        endpoint = attempt.endpoint
        request.url = request.original_url.with_fragment(None).with_scheme(self._options["scheme"])
        request.url = request.url.with_host(endpoint.host).with_port(endpoint.port)
        if own_host == default_host:
            request.headers[hdrs.HOST] = attempt.address
        hostname = urls.name_in_certificate(self._options["server_hostname"], route)
        if hostname is not None:
            request.server_hostname = hostname

    async def _try(
        self, call: Attempts, attempt: Attempt, request: ClientRequest, handler: Handler
    ) -> ClientResponse | None:
        """Make one attempt. Returns the response for the caller; None if the attempt failed and another one follows."""
        try:
            async with asyncio.timeout(attempt.seconds):
                response = await handler(request)
                try:
                    await _read_ahead(call, response)
                except BaseException:
                    response.close()
                    raise
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            outcome, sent = _how(error)
            _note_body(call, request)
            attempt.failed(outcome, str(error) or type(error).__name__, sent=sent, cause=error)
            if call.may_go_on:
                await request.close()  # returns when nothing writes the body any more
            return None
        _note_body(call, request)
        if not attempt.answered(response.status):
            response.release()
            return None
        self._release_with(response, attempt, call)
        return response

    def _release_with(self, response: ClientResponse, attempt: Attempt, call: Attempts) -> None:
        """Release the attempt when the body has been read or closed; close the body at the deadline."""
        connection = response.connection
        if connection is None:
            attempt.release()
            return
        connection.add_callback(attempt.release)
        if call.ends is not None:
            left = max(0.0, call.ends - self._policy.clock())
            timer = asyncio.get_running_loop().call_later(left, response.close)
            connection.add_callback(timer.cancel)
