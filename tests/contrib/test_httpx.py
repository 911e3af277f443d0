"""The httpx transports against real pods: names, redirects, cookies, streams, time-outs, and what follows a failure.

Each test of a request runs over both transports: `call` sends a request by the one or the other.
"""

from __future__ import annotations

import asyncio
import copy
import pickle
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from shmroute.calls import AttemptFailed, Policy, Settings
from shmroute.contrib.httpx import AsyncTransport, Transport, url_for
from shmroute.errors import (
    CallAttemptsFailed,
    CallFailed,
    CallModelNotFound,
    CallNoEndpoints,
    CallNotRouted,
    CallTimedOut,
    ConfigError,
    ModelNotFound,
    NoEndpoints,
)
from shmroute.worker.default import _default
from shmroute.worker.reader import Reader
from tests.apiserver.tls import make_certificates
from tests.contrib.pods import PodProcess, Team, team
from tests.processes import bound

ROOT = Path(__file__).parents[2]

CONTEXT = ssl.create_default_context()
"""TLS context for all clients: without it each would make its own in 30 ms, though none uses TLS."""


class Call(Protocol):
    """Sends one request by a client with a transport of its own, and reads the response."""

    def __call__(
        self, method: str, url: str | httpx.URL, *, options: dict[str, Any] = ..., **request: Any
    ) -> httpx.Response: ...


def by_thread(
    method: str, url: str | httpx.URL, *, options: dict[str, Any] | None = None, **request: Any
) -> httpx.Response:
    options = {"policy": Policy()} | (options or {})
    with httpx.Client(verify=CONTEXT, mounts={"model://": Transport(**options)}, follow_redirects=True) as client:
        return client.request(method, url, **request)


def by_task(
    method: str, url: str | httpx.URL, *, options: dict[str, Any] | None = None, **request: Any
) -> httpx.Response:
    async def send() -> httpx.Response:
        given = {"policy": Policy()} | (options or {})
        mounts = {"model://": AsyncTransport(**given)}
        async with httpx.AsyncClient(verify=CONTEXT, mounts=mounts, follow_redirects=True) as client:
            return await client.request(method, url, **request)

    return asyncio.run(send())


@pytest.fixture(params=[by_thread, by_task], ids=["Transport", "AsyncTransport"])
def call(request: pytest.FixtureRequest) -> Call:
    given: Call = request.param
    return given


@pytest.fixture(scope="module")
def two() -> Iterator[Team]:
    with team(2) as given:
        yield given


@pytest.fixture
def pods(two: Team) -> Team:
    """Return two pods that answer."""
    two.behave("ok")
    two.publish(*two.pods)
    return two


@pytest.fixture
def one(pods: Team) -> PodProcess:
    """Return one pod that answers."""
    pods.publish(pods.pods[0])
    return pods.pods[0]


def said(response: httpx.Response) -> dict[str, Any]:
    answer: dict[str, Any] = response.raise_for_status().json()
    return answer


@pytest.fixture(autouse=True)
def _no_lease_is_left() -> Iterator[None]:
    yield
    assert _default._binding.busy == {}


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["iiot_dataservice", "m-1", "IIoT", "a:b", "two words", "zählerß", "1.2.3.4", "42", "x/y?z#@%41", "xn--a", "."],
)
def test_any_name_can_be_called_by_url_for_or_the_extension(name: str, pods: Team, call: Call) -> None:
    pods.publish(*pods.pods, model=name)
    answer = call("GET", url_for(name, "/query?a=1"))
    assert said(answer)["target"] == "/query?a=1"
    assert said(call("GET", "model://any/query", extensions={"model": name}))["target"] == "/query"


def test_a_plain_name_is_the_host_of_the_url(pods: Team, call: Call) -> None:
    pods.publish(*pods.pods, model="iiot_dataservice")
    answer = said(call("POST", "model://iiot_dataservice/query?x=a%20b", json={"a": 1}))
    assert (answer["method"], answer["target"], answer["body"]) == ("POST", "/query?x=a%20b", '{"a":1}')


def test_error_for_a_missing_name_with_capitals_gives_the_remedy(pods: Team, call: Call) -> None:
    pods.publish(*pods.pods, model="IIoT")
    with pytest.raises(CallModelNotFound, match="url_for"):
        call("GET", "model://IIoT/")
    with pytest.raises(CallModelNotFound) as caught_error:
        call("GET", "model://none/")
    assert "url_for" not in str(caught_error.value), "no name differs from it in its letters only"


def test_a_port_in_a_models_url_is_refused(pods: Team, call: Call) -> None:
    with pytest.raises(httpx.UnsupportedProtocol, match="no port"):
        call("GET", "model://m:8080/")


@pytest.mark.parametrize("path", ["", "query"])
def test_url_for_refuses_a_path_without_a_slash(path: str) -> None:
    with pytest.raises(ValueError, match="slash"):
        url_for("m", path)


def test_the_host_is_the_address_unless_the_caller_sets_it(one: PodProcess, call: Call) -> None:
    assert said(call("GET", "model://m/"))["headers"]["host"] == one.address
    assert said(call("GET", "model://m/", headers={"Host": "models.example"}))["headers"]["host"] == "models.example"


def test_the_response_says_which_pod_answered(one: PodProcess, call: Call) -> None:
    response = call("GET", "model://m/")
    assert (response.extensions["endpoint"], response.extensions["attempts"]) == (one.address, 1)
    assert response.extensions["http_version"] == b"HTTP/1.1"


def test_a_key_leads_to_one_pod(pods: Team, call: Call) -> None:
    assert len({said(call("GET", "model://m/", extensions={"key": "k"}))["pod"] for _ in range(6)}) == 1


# --- redirects and cookies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m", "IIoT:1"])
@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/there?a=1", "/there?a=1"),
        ("there", "/there"),
        ("//{address}/there", "/there"),
        ("http://{address}/there#part", "/there"),
        ("http://{address}", "/"),
    ],
)
def test_a_redirect_that_names_the_pod_leads_back_to_the_model(
    location: str, target: str, name: str, pods: Team, call: Call
) -> None:
    pods.publish(pods.pods[0], model=name)
    pods.pods[0].behave("redirect " + location.format(address=pods.pods[0].address))
    response = call("GET", url_for(name, "/redirect"), headers={"Authorization": "secret"})
    assert said(response)["target"] == target
    assert said(response)["headers"]["authorization"] == "secret", "the same origin"
    assert response.url.scheme == "model"
    assert response.extensions["endpoint"] == pods.pods[0].address


def test_a_redirect_keeps_a_model_named_by_extension(pods: Team, call: Call) -> None:
    pods.publish(pods.pods[0], model="IIoT")
    pods.pods[0].behave("redirect /there")
    response = call("GET", "model://any/redirect", extensions={"model": "IIoT"})
    assert said(response)["target"] == "/there"
    assert response.url == url_for("IIoT", "/there")


def test_a_redirect_to_another_model_is_followed(pods: Team, call: Call) -> None:
    pods.publish(pods.pods[0])
    pods.publish(pods.pods[1], model="other", app="other")
    pods.pods[0].behave("redirect model://other/there")
    response = call("GET", "model://any/redirect", extensions={"model": "m"})
    assert response.url == httpx.URL("model://other/there")
    assert (said(response)["pod"], said(response)["target"]) == (pods.pods[1].address, "/there")


def test_a_redirect_to_another_host_is_not_changed(pods: Team, call: Call) -> None:
    elsewhere = pods.pods[1]
    pods.publish(pods.pods[0])
    pods.pods[0].behave(f"redirect http://{elsewhere.address}/there")
    response = call("GET", "model://m/redirect")
    assert response.url == httpx.URL(f"http://{elsewhere.address}/there")
    assert said(response)["pod"] == elsewhere.address


def test_cookies_are_shared_by_the_pods_of_a_model_and_by_no_other(pods: Team) -> None:
    pods.publish(pods.pods[0], model="other", app="other")
    pods.behave("cookie 7")
    with httpx.Client(verify=CONTEXT, mounts={"model://": Transport(policy=Policy())}) as client:
        client.get("model://m/")
        seen = {
            said(answer)["pod"]: said(answer)["headers"].get("cookie")
            for answer in (client.get("model://m/") for _ in range(20))
        }
        assert seen == {pod.address: "pod=7" for pod in pods.pods}
        assert "cookie" not in said(client.get("model://other/"))["headers"]


# --- bodies and streams ---------------------------------------------------------------------------------------


def test_request_bodies_of_every_kind_arrive(one: PodProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with (
        httpx.Client(verify=CONTEXT, mounts={"model://": Transport(policy=Policy())}) as client,
        (tmp_path / "file").open("rb") as file,
    ):
        assert said(client.post("model://m/", content=b"bytes"))["body"] == "bytes"
        assert said(client.post("model://m/", content=iter([b"a", b"b"])))["body"] == "ab"
        assert said(client.post("model://m/", data={"a": "1"}))["body"] == "a=1"
        assert "content" in said(client.post("model://m/", files={"f": file}))["body"]
        assert client.head("model://m/").status_code == 200


def test_an_async_request_body_arrives(one: PodProcess) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    assert said(by_task("POST", "model://m/", content=parts()))["body"] == "ab"


def test_a_pod_is_busy_until_its_response_is_closed(pods: Team) -> None:
    with (
        httpx.Client(verify=CONTEXT, mounts={"model://": Transport(policy=Policy())}) as client,
        client.stream("POST", "model://m/") as first,
    ):
        for _ in range(5):
            with client.stream("POST", "model://m/") as second:
                assert second.extensions["endpoint"] != first.extensions["endpoint"]
        assert b"".join(first.iter_raw()).startswith(b"{")


def test_connections_are_kept_between_requests(one: PodProcess) -> None:
    with httpx.Client(verify=CONTEXT, mounts={"model://": Transport(policy=Policy())}) as client:
        ports = {client.get("model://m/").extensions["network_stream"].get_extra_info("client_addr") for _ in range(5)}
    assert len(ports) == 1


def test_an_answer_that_breaks_off_is_an_error_that_names_the_pod(one: PodProcess, call: Call) -> None:
    one.behave("half")
    with pytest.raises(httpx.RemoteProtocolError) as caught:
        call("POST", "model://m/")
    assert isinstance(caught.value, CallAttemptsFailed)
    assert caught.value.attempts[0].endpoint == one.address
    assert caught.value.why == "the answer had begun"


def test_http2_is_used_if_asked_for(pods: Team, call: Call) -> None:
    """The server speaks HTTP/2 without TLS, by prior knowledge (RFC 9113, section 3.3)."""
    pod = PodProcess()
    server = [sys.executable, "-m", "hypercorn", "--bind", pod.address, "tests.contrib.echo:app"]
    process = subprocess.Popen(bound(server), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        pods.publish(pod)
        options = {"http1": False, "http2": True}
        for _ in range(600):
            try:
                response = call("POST", "model://m/there", content=b"x" * 100_000, options=options)
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        assert response.http_version == "HTTP/2"
        assert response.json() == {"path": "/there", "authority": pod.address, "bytes": 100_000}
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize(
    "hostname", ["models.internal", lambda route: f"{route.app}.internal"], ids=["name", "function"]
)
def test_https_checks_the_name_that_the_caller_chooses(hostname: Any, tmp_path: Path, call: Call) -> None:
    certificates = make_certificates(tmp_path, names="DNS:models.internal,DNS:app.internal")
    both = tmp_path / "both.pem"
    both.write_text(certificates.certificate.read_text() + certificates.key.read_text())
    context = ssl.create_default_context(cafile=str(certificates.ca))
    with team(1, certificate=both):
        options = {"scheme": "https", "verify": context}
        assert said(call("GET", "model://m/", options={**options, "server_hostname": hostname}))["method"] == "GET"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            call("GET", "model://m/", options=options)
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            call("GET", "model://m/", options={**options, "server_hostname": "other.internal"})


@pytest.mark.parametrize("wrong", [{"scheme": "ftp"}, {"server_hostname": "x"}])
def test_options_that_cannot_be_used_are_refused(wrong: dict[str, str]) -> None:
    for transport in (Transport, AsyncTransport):
        with pytest.raises(ConfigError):
            transport(**wrong)  # type: ignore[arg-type]


def test_proxies_are_not_used(one: PodProcess, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert said(call("GET", "model://m/"))["pod"] == one.address


# --- failures -------------------------------------------------------------------------------------------------


def refusing(pods: Team) -> None:
    """Name an address at which nobody listens before the first pod's."""
    pods.publish(PodProcess(), pods.pods[0])


def many(
    pods: Team, method: str, count: int = 12, timeout: float = 10.0, **request: Any
) -> list[httpx.Response | Exception]:
    """Send requests by one client, so that it reaches each pod; return the responses and errors."""
    answers: list[httpx.Response | Exception] = []
    policy = Policy(Settings(consecutive_failures=1000))
    with httpx.Client(verify=CONTEXT, mounts={"model://": Transport(policy=policy)}, timeout=timeout) as client:
        for _ in range(count):
            try:
                answers.append(client.request(method, "model://m/", **request))
            except httpx.TransportError as error:
                answers.append(error)
    return answers


@pytest.mark.fault(49)
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("body", [None, "iterator"])
def test_a_refused_connection_goes_to_the_next_pod(method: str, body: str | None, pods: Team, call: Call) -> None:
    refusing(pods)
    for _ in range(4):
        content: Any = iter([b"x"]) if body else None
        if body and call is by_task:
            content = _parts()
        assert said(call(method, "model://m/", content=content))["method"] == method


async def _parts() -> AsyncIterator[bytes]:
    yield b"x"


@pytest.mark.fault(49)
@pytest.mark.parametrize("behaviour", ["break", "hang", "garbage", "half"])
def test_a_request_that_was_sent_is_repeated_only_if_idempotent(behaviour: str, pods: Team) -> None:
    pods.pods[0].behave(behaviour)
    good = pods.pods[1].address
    timeout = 0.5 if behaviour == "hang" else 10.0
    assert all(isinstance(answer, httpx.Response) for answer in many(pods, "GET", timeout=timeout))
    assert all(isinstance(answer, httpx.Response) for answer in many(pods, "PUT", timeout=timeout, content=b"x"))
    answers = many(pods, "POST", timeout=timeout, content=b"x")
    errors = [answer for answer in answers if isinstance(answer, CallAttemptsFailed)]
    assert errors
    assert all(len(error.attempts) == 1 and error.attempts[0].sent for error in errors)
    assert all("not idempotent" in error.why or "had begun" in error.why for error in errors)
    assert {answer.extensions["endpoint"] for answer in answers if isinstance(answer, httpx.Response)} == {good}


def test_the_caller_may_say_that_a_post_can_be_repeated(pods: Team) -> None:
    pods.pods[0].behave("break")
    assert all(isinstance(answer, httpx.Response) for answer in many(pods, "POST", extensions={"repeat": True}))
    errors = many(pods, "GET", extensions={"repeat": False})
    assert any(isinstance(answer, CallAttemptsFailed) for answer in errors)


def test_a_body_that_cannot_be_read_twice_is_not_sent_twice(pods: Team) -> None:
    pods.behave("break")
    with httpx.Client(verify=CONTEXT, mounts={"model://": Transport(policy=Policy())}) as client:
        with pytest.raises(CallAttemptsFailed, match="cannot be read twice"):
            client.put("model://m/", content=iter([b"a"]))
        with pytest.raises(CallAttemptsFailed, match=r"every endpoint|3 of 3"):
            client.put("model://m/", content=b"a")


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_503_is_retried_on_another_pod_if_idempotent(status: int, pods: Team) -> None:
    pods.pods[0].behave(f"status {status}")
    assert {answer.status_code for answer in many(pods, "GET") if isinstance(answer, httpx.Response)} == {200}
    statuses = {answer.status_code for answer in many(pods, "POST") if isinstance(answer, httpx.Response)}
    assert statuses == {200, status}


def test_the_last_503_is_returned_when_no_pod_is_left(pods: Team, call: Call) -> None:
    pods.behave("status 503")
    response = call("GET", "model://m/")
    assert (response.status_code, response.json()["method"]) == (503, "GET")


@pytest.mark.parametrize("status", [400, 404, 409, 429, 500])
def test_other_error_statuses_are_returned_unchanged(status: int, pods: Team, call: Call) -> None:
    pods.behave(f"status {status}")
    response = call("GET", "model://m/")
    assert (response.status_code, response.extensions["attempts"]) == (status, 1)


# --- time -----------------------------------------------------------------------------------------------------


@pytest.mark.fault(49)
@pytest.mark.parametrize("behaviour", ["hang", "drip"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_call_ends_with_its_deadline(behaviour: str, method: str, pods: Team, call: Call) -> None:
    """This includes a pod that sends single bytes, each within the time-out of a read."""
    pods.behave(behaviour)
    with pytest.raises(CallTimedOut, match=r"within 0\.6 s") as caught:
        call(method, "model://m/", extensions={"deadline": 0.6}, timeout=30)
    assert isinstance(caught.value, httpx.TimeoutException)
    assert isinstance(caught.value, TimeoutError)
    assert len(caught.value.attempts) == (2 if method == "GET" else 1)


@pytest.mark.fault(49)
@pytest.mark.parametrize("behaviour", ["hang", "drip"])
def test_a_call_with_a_deadline_succeeds_elsewhere_if_idempotent(behaviour: str, pods: Team, call: Call) -> None:
    pods.pods[0].behave(behaviour)
    for _ in range(4):
        answer = call("GET", "model://m/", extensions={"deadline": 2.0}, timeout=30)
        assert said(answer)["pod"] == pods.pods[1].address


def test_a_body_ends_with_the_deadline(one: PodProcess, call: Call) -> None:
    one.behave("drip body")
    with pytest.raises(CallTimedOut):
        call("POST", "model://m/", options={"deadline": 0.6}, timeout=30)
    one.behave("drip body")
    with pytest.raises(CallTimedOut):
        call("GET", "model://m/", options={"deadline": 0.6}, timeout=30)


def test_the_clients_own_timeouts_hold(one: PodProcess, call: Call) -> None:
    one.behave("hang")
    with pytest.raises(httpx.ReadTimeout) as caught:
        call("POST", "model://m/", timeout=0.2)
    assert isinstance(caught.value, CallAttemptsFailed)


def test_reading_a_body_uses_the_clients_timeout(pods: Team, call: Call) -> None:
    pods.behave("slowbody 0.5")
    options = {"policy": Policy(Settings(attempt_timeout=0.2))}
    assert said(call("POST", "model://m/", options=options, timeout=5))["method"] == "POST"


def test_an_exhausted_pool_does_not_count_as_a_pod_failure(one: PodProcess) -> None:
    policy = Policy()
    transport = Transport(policy=policy, limits=httpx.Limits(max_connections=1))
    timeout = httpx.Timeout(5, pool=0.1)
    with (
        httpx.Client(verify=CONTEXT, mounts={"model://": transport}, timeout=timeout) as client,
        client.stream("POST", "model://m/"),
    ):
        with pytest.raises(httpx.PoolTimeout):
            client.get("model://m/")
        assert not policy.outliers.knows("default/m")


# --- errors ---------------------------------------------------------------------------------------------------


def caught(call: Call, *arguments: Any, **options: Any) -> CallFailed:
    with pytest.raises(httpx.TransportError) as caught:
        call(*arguments, **options)
    assert isinstance(caught.value, CallFailed)
    assert caught.value.request.url.scheme == "model"
    return caught.value


def test_every_failure_is_a_transport_error_and_survives_copies(pods: Team, call: Call, area: str) -> None:
    pods.publish(PodProcess(), PodProcess())
    failures = [
        (caught(call, "GET", "model://m/"), CallAttemptsFailed, httpx.ConnectError),
        (caught(call, "GET", "model://none/"), CallModelNotFound, ModelNotFound),
        (caught(call, "GET", "model://m/", options={"reader": Reader(area)}), CallNotRouted, httpx.ConnectError),
    ]
    pods.publish()
    failures.append((caught(call, "GET", "model://m/"), CallNoEndpoints, NoEndpoints))
    for error, ours, theirs in failures:
        for each in (error, pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert isinstance(each, ours)
            assert isinstance(each, theirs)
            assert str(each) == str(error)
            assert isinstance(each, CallFailed)
            assert each.model in ("m", "none")
    assert isinstance(failures[0][0].__cause__, httpx.ConnectError)


def test_the_error_names_what_each_address_said(pods: Team, call: Call) -> None:
    dead = [PodProcess(), PodProcess()]
    pods.publish(*dead)
    error = caught(call, "GET", "model://m/")
    assert {attempt.endpoint for attempt in error.attempts} == {pod.address for pod in dead}
    assert all(attempt.outcome == "refused" and not attempt.sent for attempt in error.attempts)
    for part in ("'m'", "'app'", dead[0].address, dead[1].address, "refused"):
        assert part in str(error)


def test_an_invalid_request_counts_against_no_pod(one: PodProcess, call: Call) -> None:
    policy = Policy()
    with pytest.raises(httpx.LocalProtocolError):
        call("GET", "model://m/", headers={"X": "a\nb"}, options={"policy": policy})
    assert not policy.outliers.knows("default/m")


# --- pools ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed_by", ["its row", "another model"])
def test_connections_to_an_address_that_has_gone_are_closed(
    closed_by: str, pods: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmroute.contrib.httpx.base.SWEEP_SECONDS", 0.0)
    transport = Transport(policy=Policy())
    with httpx.Client(verify=CONTEXT, mounts={"model://": transport}) as client:
        for _ in range(10):
            client.get("model://m/")
        assert set(transport.pools) == {pod.address for pod in pods.pods}
        streams = [client.stream("POST", "model://m/") for _ in range(2)]
        responses = [stream.__enter__() for stream in streams]
        leaving = pods.pods[1]
        if closed_by == "its row":
            pods.publish(pods.pods[0])
            client.get("model://m/")
        else:  # the model has moved; nobody calls the app of old any more
            pods.publish(model="m")
            pods.publish(pods.pods[0], model="new", app="new")
            client.get("model://new/")
        assert leaving.address not in transport.pools
        for stream, response in zip(streams, responses, strict=True):
            assert response.read(), "what was under way goes on to its end"
            network = response.extensions["network_stream"]
            stream.__exit__(None, None, None)
            if response.extensions["endpoint"] == leaving.address:
                assert network.get_extra_info("socket").fileno() == -1
        assert (
            said(client.get("model://m/" if closed_by == "its row" else "model://new/"))["pod"] == pods.pods[0].address
        )


def test_async_connections_to_an_address_that_has_gone_are_closed(pods: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmroute.contrib.httpx.base.SWEEP_SECONDS", 0.0)

    async def run() -> None:
        transport = AsyncTransport(policy=Policy())
        async with httpx.AsyncClient(verify=CONTEXT, mounts={"model://": transport}) as client:
            async with client.stream("POST", "model://m/") as first:
                leaving = first.extensions["endpoint"]
                await client.get("model://m/")
                assert len(transport.pools) == 2
                pods.publish(*(pod for pod in pods.pods if pod.address != leaving))
                await client.get("model://m/")
                assert leaving not in transport.pools
                assert await first.aread()
                pool = first.stream
            await client.get("model://m/")
            assert pool is not None

    asyncio.run(run())


def test_a_closed_client_has_closed_its_connections(pods: Team) -> None:
    transport = Transport(policy=Policy())
    with httpx.Client(verify=CONTEXT, mounts={"model://": transport}) as client:
        stream = client.get("model://m/").extensions["network_stream"]
    assert transport.pools == {}
    assert stream.get_extra_info("socket").fileno() == -1


def test_threads_share_a_client(pods: Team) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with (
        httpx.Client(verify=CONTEXT, mounts={"model://": Transport(policy=Policy())}) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        answers = list(threads.map(lambda _: client.get("model://m/").status_code, range(200)))
    assert answers == [200] * 200


def test_a_cancelled_call_releases_its_lease_and_connection(one: PodProcess) -> None:
    one.behave("hang")
    policy = Policy()

    async def run() -> None:
        transport = AsyncTransport(policy=policy)
        async with httpx.AsyncClient(verify=CONTEXT, mounts={"model://": transport}, timeout=30) as client:
            task = asyncio.ensure_future(client.get("model://m/"))
            while not transport.pools or not next(iter(transport.pools.values())).users:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert next(iter(transport.pools.values())).users == 0

    asyncio.run(run())
    assert not policy.outliers.knows("default/m"), "the caller gave up: the pod is not to blame"


# --- a client of the library that is not there ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["httpx"])
def test_a_missing_library_is_named_with_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"shmroute.contrib.{name}")
    with pytest.raises(ImportError, match=rf"pip install 'shmroute\[{name}\]'"):
        importlib.import_module(f"shmroute.contrib.{name}")


def test_events_say_whether_the_request_was_sent(pods: Team) -> None:
    policy = Policy()
    told: list[Any] = []
    policy.listeners.append(told.append)
    pods.behave("break")
    with pytest.raises(httpx.TransportError):
        by_thread("POST", "model://m/", options={"policy": policy})
    failed = [event for event in told if isinstance(event, AttemptFailed)]
    assert [(event.outcome, event.sent) for event in failed] == [("broken", True)]
