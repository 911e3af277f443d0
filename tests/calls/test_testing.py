"""`shmroute.testing.pod_server`: a pod that users' tests can make fail."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import httpx
import pytest

from shmroute.calls import Policy
from shmroute.contrib.httpx import Transport
from shmroute.errors import CallAttemptsFailed, CallTimedOut
from shmroute.testing import Answer, PodServer, pod_server, routes


@pytest.fixture
def one() -> Iterator[PodServer]:
    with pod_server({"is": 1}) as given:
        yield given


@pytest.fixture
def two(one: PodServer) -> Iterator[PodServer]:
    """Yield a second pod; model "m" leads to both."""
    with pod_server({"is": 2}) as given, routes({"m": Answer(app="app", endpoints=(one.address, given.address))}):
        yield given


def calls(count: int = 6, **extensions: object) -> set[int]:
    with httpx.Client(mounts={"model://": Transport(policy=Policy())}, timeout=5) as client:
        return {client.get("model://m/there", extensions=extensions).json()["is"] for _ in range(count)}


def test_pod_server_answers_and_records_its_requests(one: PodServer) -> None:
    connection = http.client.HTTPConnection(one.address)
    for method in ("GET", "POST", "PURGE", "HEAD"):
        connection.request(method, f"/{method}", body=b"x" if method == "POST" else None)
        assert connection.getresponse().read() == (b"" if method == "HEAD" else b'{"is":1}')
    connection.close()
    assert one.requests == [(method, f"/{method}") for method in ("GET", "POST", "PURGE", "HEAD")]


@pytest.mark.parametrize("failure", ["refuse", "break_off", "hang", "503"])
def test_calls_go_to_the_other_pod_while_one_fails(failure: str, one: PodServer, two: PodServer) -> None:
    if failure == "503":
        one.answer(status=503)
    else:
        getattr(one, failure)()
    assert calls(deadline=1.0) == {2}
    one.answer({"is": 1})
    assert calls(20) == {1, 2}


def test_a_pod_refuses_also_clients_that_keep_their_connection(one: PodServer, two: PodServer) -> None:
    with httpx.Client(mounts={"model://": Transport(policy=Policy())}) as client:
        for _ in range(10):
            client.get("model://m/")
        one.refuse()
        two.refuse()
        with pytest.raises(CallAttemptsFailed):
            client.get("model://m/")


def test_a_pod_that_hangs_lets_the_deadline_pass(one: PodServer, two: PodServer) -> None:
    one.hang()
    two.hang()
    with pytest.raises(CallTimedOut):
        calls(1, deadline=0.3)
