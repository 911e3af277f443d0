"""What `shmroute.contrib.granian` changes: the sockets, and the answers of a worker that has been replaced."""

from __future__ import annotations

import asyncio
import socket
from ctypes import c_bool
from typing import Any

import pytest
from granian.constants import Interfaces

from shmroute.contrib.granian import DEFER_SECONDS, Granian, _listen, _load

CLOSE = (b"connection", b"close")


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": b"ok"})


def answer(leaving: bool, scope: dict[str, str]) -> list[Any]:
    """What the ASGI application sends in a worker that is `leaving`."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(_load(lambda: application, Interfaces.ASGI, c_bool(leaving))(scope, None, send))
    return sent


def has_ipv6() -> bool:
    """Whether the loopback interface has its address of IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


HTTP = {"type": "http", "http_version": "1.1"}


@pytest.mark.parametrize(
    ("leaving", "scope", "announced"),
    [
        (False, HTTP, False),
        (True, HTTP, True),
        (True, {"type": "http", "http_version": "2"}, False),
        (True, {"type": "lifespan"}, False),
    ],
    ids=["present", "replaced", "HTTP/2", "lifespan"],
)
def test_answers_of_a_replaced_worker_say_that_they_are_the_last(
    leaving: bool, scope: dict[str, str], announced: bool
) -> None:
    start, body = answer(leaving, scope)
    assert start["headers"] == [(b"a", b"b"), *([CLOSE] if announced else [])]
    assert body == {"type": "http.response.body", "body": b"ok"}


@pytest.mark.parametrize("leaving", [False, True])
def test_wsgi_answers_of_a_replaced_worker_say_that_they_are_the_last(leaving: bool) -> None:
    started: list[Any] = []

    def wsgi(_: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("a", "b")])
        return [b"ok"]

    loaded = _load(lambda: wsgi, Interfaces.WSGI, c_bool(leaving))
    assert loaded({"SERVER_PROTOCOL": "HTTP/1.1"}, lambda *given: started.append(given)) == [b"ok"]
    assert started == [("200 OK", [("a", "b"), *([("Connection", "close")] if leaving else [])])]


def test_an_rsgi_application_is_left_as_it_is() -> None:
    assert _load(lambda: application, Interfaces.RSGI, c_bool(True)) is application


@pytest.mark.parametrize(("address", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_the_kernel_keeps_a_connection_until_something_comes(address: str, family: int) -> None:
    if address == "::1" and not has_ipv6():
        pytest.skip("there is no IPv6 here")
    with _listen(address, 0, 16) as first:
        assert first.family == family
        with socket.create_connection(first.getsockname()[:2]) as client:
            first.settimeout(0.05)
            with pytest.raises(TimeoutError):
                first.accept()
            client.send(b"G")
            first.settimeout(10)
            first.accept()[0].close()
        assert first.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) >= DEFER_SECONDS


def test_each_worker_has_a_socket_of_its_own_on_one_port() -> None:
    server = Granian("app:app", interface="asgi", workers=3, port=0, log_enabled=False)
    server._init_shared_socket()
    try:
        assert len({listening.fileno() for listening in server._sockets}) == 3
        (address,) = {listening.getsockname() for listening in server._sockets}
        assert address[1] > 0
    finally:
        server._drop_shared_socket()
    assert {listening.fileno() for listening in server._sockets} == {-1}
