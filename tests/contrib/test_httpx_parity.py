"""The transport behaves like httpx at a fixed address: each test makes the same request both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from shmroute.calls import Policy
from shmroute.contrib.httpx import AsyncTransport, Transport
from tests.contrib.pods import PodProcess, Team, team

Act = Callable[[httpx.Client], Any]


@pytest.fixture(scope="module")
def one() -> Iterator[Team]:
    with team(1) as given:
        yield given


@pytest.fixture
def pod(one: Team) -> PodProcess:
    """Return the only pod of model "m"; it answers."""
    one.behave("ok")
    one.publish(*one.pods)
    return one.pods[0]


def clients(pod: PodProcess) -> Iterator[httpx.Client]:
    """Yield a client that calls the pod's address, then one that calls the model."""
    yield httpx.Client(base_url=f"http://{pod.address}", trust_env=False)
    yield httpx.Client(base_url="model://m", mounts={"model://": Transport(policy=Policy())}, trust_env=False)


def said(response: httpx.Response) -> list[Any]:
    """Return what the pod was asked, and the course of the answer."""
    answer = response.json()
    course = [(each.status_code, each.request.method, each.url.path) for each in (*response.history, response)]
    return [answer["method"], answer["target"], answer["body"], answer["headers"].get("authorization"), course]


def error_of(work: Callable[[], object], *kinds: type[Exception]) -> type[Exception] | None:
    """Return which of the kinds the error has; an error of the transport has httpx's kind too."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - its kind is what is compared
        return next((kind for kind in kinds if isinstance(error, kind)), type(error))
    return None


def redirected(client: httpx.Client) -> Any:
    return [
        said(client.request(method, "/redirect", content=b"x", follow_redirects=True, auth=("a", "b")))
        for method in ("POST", "PUT")
    ]


def redirect_not_followed(client: httpx.Client) -> Any:
    response = client.post("/redirect", content=b"x")
    following = response.next_request
    assert following is not None
    return [response.status_code, response.has_redirect_location, following.method, following.url.path]


def redirected_for_ever(client: httpx.Client) -> Any:
    return error_of(lambda: client.get("/redirect", follow_redirects=True), httpx.TooManyRedirects)


def requested(client: httpx.Client) -> Any:
    """Send a request with parameters, cookies, a form and authentication."""
    client.params = {"k": "v"}
    client.cookies.set("c", "1")
    asked = [client.get("/a", params={"x": "a b&"}), client.post("a/b", data={"f": "ü"}), client.delete("/")]
    return [(said(each), each.json()["headers"].get("cookie")) for each in asked]


def hooked(client: httpx.Client) -> Any:
    seen: list[str] = []
    client.event_hooks = {
        "request": [lambda request: seen.append(f"{request.method} {request.url.path}")],
        "response": [lambda response: seen.append(f"{response.status_code} {response.is_closed}")],
    }
    assert client.get("/x").elapsed.total_seconds() >= 0
    return seen


def refused_status(client: httpx.Client) -> Any:
    response = client.get("/x")
    return [response.is_client_error, error_of(response.raise_for_status, httpx.HTTPStatusError)]


def streamed(client: httpx.Client) -> Any:
    found: list[Any] = []
    with client.stream("POST", "/s") as response:
        found.append(error_of(lambda: response.content, httpx.ResponseNotRead))
        raw = b"".join(response.iter_raw(16))
        found += [len(raw) == int(response.headers["content-length"]), response.num_bytes_downloaded == len(raw)]
        found += [response.is_stream_consumed, error_of(lambda: list(response.iter_raw()), httpx.StreamConsumed)]
    with client.stream("POST", "/s") as response:
        [line] = response.iter_lines()
        found.append(line[:1])
    with client.stream("POST", "/s") as response:
        found.append(response.read() == response.content)
    with client.stream("POST", "/s") as response:
        pass
    found += [response.is_closed, error_of(lambda: list(response.iter_bytes()), httpx.StreamClosed)]
    response = client.send(client.build_request("GET", "/s"), stream=True)
    response.close()
    found += [response.is_closed, error_of(response.read, httpx.StreamClosed)]
    return [*found, said(client.get("/after"))]


def too_slow(client: httpx.Client) -> Any:
    limit = httpx.Timeout(5.0, read=0.1)
    with client.stream("POST", "/s", timeout=limit) as response:
        body = error_of(response.read, httpx.ReadTimeout)
    return [body, response.is_closed]


def silent(client: httpx.Client) -> Any:
    return error_of(lambda: client.post("/x", timeout=httpx.Timeout(5.0, read=0.1)), httpx.ReadTimeout)


def closed(client: httpx.Client) -> Any:
    client.get("/x")
    client.close()
    return [client.is_closed, error_of(lambda: client.get("/x"), RuntimeError)]


@pytest.mark.parametrize(
    ("behaviour", "act"),
    [
        ("redirect /there?a=1 303", redirected),
        ("redirect /there 307", redirected),
        ("redirect there 308", redirected),
        ("redirect /there 301", redirected),
        ("redirect /there 303", redirect_not_followed),
        ("redirect /redirect", redirected_for_ever),
        ("ok", requested),
        ("ok", hooked),
        ("status 404", refused_status),
        ("ok", streamed),
        ("slowbody 0.5", too_slow),
        ("hang", silent),
        ("ok", closed),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_httpx_behaves_as_at_a_fixed_address(pod: PodProcess, behaviour: str, act: Act) -> None:
    pod.behave(behaviour)
    found = []
    for client in clients(pod):
        with client:
            found.append(act(client))
    assert found[1] == found[0]
    assert found[0]


async def streamed_by_task(client: httpx.AsyncClient) -> Any:
    found: list[Any] = []
    async with client.stream("POST", "/s") as response:
        raw = b"".join([part async for part in response.aiter_raw(16)])
        found += [len(raw) == int(response.headers["content-length"]), response.is_stream_consumed]
        try:
            _ = [part async for part in response.aiter_raw()]
        except httpx.StreamConsumed:
            found.append("consumed")
    response = await client.send(client.build_request("GET", "/s"), stream=True)
    await response.aclose()
    try:
        await response.aread()
    except httpx.StreamClosed:
        found.append("closed")
    answer = await client.post("/redirect", content=b"x", follow_redirects=True)
    await client.aclose()
    try:
        await client.get("/x")
    except RuntimeError:
        found.append("client closed")
    return [*found, response.is_closed, said(answer)]


def test_httpx_in_tasks_behaves_as_at_a_fixed_address(pod: PodProcess) -> None:
    pod.behave("redirect /there 307")
    found = [
        asyncio.run(streamed_by_task(httpx.AsyncClient(base_url=url, mounts=mounts, trust_env=False)))
        for url, mounts in (
            (f"http://{pod.address}", {}),
            ("model://m", {"model://": AsyncTransport(policy=Policy())}),
        )
    ]
    assert found[1] == found[0]
    assert {"consumed", "closed", "client closed"} <= {each for each in found[0] if isinstance(each, str)}
