"""The adapter for requests against real pods: names, redirects, cookies, time-outs, and what follows a failure."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from shmroute.calls import Policy, Settings
from shmroute.contrib.requests import Adapter, url_for
from shmroute.errors import (
    CallAttemptsFailed,
    CallTimedOut,
    ConfigError,
)
from shmroute.worker.default import _default
from tests.apiserver.tls import make_certificates
from tests.contrib.failures import check_failures
from tests.contrib.pods import PodProcess, Team, team


@pytest.fixture(scope="module")
def two() -> Iterator[Team]:
    with team(2) as given:
        yield given


@pytest.fixture
def pods(two: Team) -> Iterator[Team]:
    """Yield two pods that answer."""
    two.behave("ok")
    two.publish(*two.pods)
    yield two
    assert _default._binding.busy == {}


def session(**options: Any) -> requests.Session:
    made = requests.Session()
    given = {"policy": Policy(Settings(consecutive_failures=1000))} | options
    made.mount("http+model://", Adapter(**given))
    return made


def ask(method: str, url: str, options: dict[str, Any] | None = None, **request: Any) -> Any:
    with session(**(options or {})) as client:
        response = client.request(method, url, **request)
        response.raise_for_status()
        return {"url": response.url, **response.json()}


def many(method: str, count: int = 12, options: dict[str, Any] | None = None, **request: Any) -> list[Any]:
    answers: list[Any] = []
    with session(**(options or {})) as client:
        for _ in range(count):
            try:
                answers.append(client.request(method, "http+model://m/", **request).status_code)
            except requests.RequestException as error:
                answers.append(error)
    return answers


# --- names, hosts, redirects ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iiot_dataservice", "IIoT", "a:b", "two words", "zählerß", "1.2.3.4", "x/y?z#@%41"])
def test_any_name_can_be_called_by_url_for(name: str, pods: Team) -> None:
    pods.publish(*pods.pods, model=name)
    assert ask("GET", url_for(name, "/query?a=1"))["target"] == "/query?a=1"


def test_parameters_and_capitals_arrive(pods: Team) -> None:
    pods.publish(*pods.pods, model="IIoT")
    answer = ask("POST", "http+model://IIoT/query", params={"x": "a b"}, json={"a": 1})
    assert (answer["target"], answer["body"]) == ("/query?x=a+b", '{"a": 1}')
    assert answer["url"] == "http+model://IIoT/query?x=a+b"


def test_the_host_is_the_address_unless_the_caller_sets_it(pods: Team) -> None:
    answer = ask("GET", "http+model://m/")
    assert answer["headers"]["host"] == answer["pod"]
    assert ask("GET", "http+model://m/", headers={"Host": "own.example"})["headers"]["host"] == "own.example"


def test_a_port_in_a_models_url_is_refused(pods: Team) -> None:
    with pytest.raises(requests.exceptions.InvalidURL):
        ask("GET", "http+model://m:8080/")


@pytest.mark.parametrize("location", ["/there", "there", "http://{address}/there"])
def test_a_redirect_that_names_the_pod_leads_back_to_the_model(location: str, pods: Team) -> None:
    pods.publish(pods.pods[0])
    pods.pods[0].behave("redirect " + location.format(address=pods.pods[0].address))
    answer = ask("GET", "http+model://m/redirect", headers={"Authorization": "secret"})
    assert (answer["target"], answer["url"]) == ("/there", "http+model://m/there")
    assert answer["headers"]["authorization"] == "secret"


def test_cookies_are_shared_by_the_pods_of_a_model(pods: Team) -> None:
    pods.behave("cookie 7")
    with session() as client:
        client.get("http+model://m/")
        said = [client.get("http+model://m/").json() for _ in range(20)]
    assert {(each["pod"], each["headers"].get("cookie")) for each in said} == {
        (pod.address, "pod=7") for pod in pods.pods
    }


def test_https_checks_the_name_that_the_caller_chooses(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path, names="DNS:models.internal")
    both = tmp_path / "both.pem"
    both.write_text(certificates.certificate.read_text() + certificates.key.read_text())
    with team(1, certificate=both):
        options: dict[str, Any] = {"scheme": "https", "server_hostname": "models.internal"}
        assert ask("GET", "http+model://m/", options, verify=str(certificates.ca))["method"] == "GET"
        for wrong in ({}, {"server_hostname": "other.internal"}):
            with pytest.raises(CallAttemptsFailed, match=r"CERTIFICATE_VERIFY_FAILED|doesn't match|not valid for"):
                ask("GET", "http+model://m/", {"scheme": "https", **wrong}, verify=str(certificates.ca))


@pytest.mark.parametrize("wrong", [{"scheme": "ftp"}, {"server_hostname": "x"}])
def test_options_that_cannot_be_used_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Adapter(**wrong)


def test_proxies_are_not_used(pods: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert ask("GET", "http+model://m/")["method"] == "GET"


# --- failures -------------------------------------------------------------------------------------------------


@pytest.mark.fault(49)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refused_connection_goes_to_the_next_pod(method: str, pods: Team) -> None:
    pods.publish(PodProcess(), pods.pods[0])
    assert many(method, data=io.BytesIO(b"x")) == [200] * 12


@pytest.mark.fault(49)
@pytest.mark.parametrize("behaviour", ["break", "hang", "garbage", "half"])
def test_a_request_that_was_sent_is_repeated_only_if_idempotent(behaviour: str, pods: Team) -> None:
    pods.pods[0].behave(behaviour)
    request: dict[str, Any] = {"timeout": 0.5} if behaviour == "hang" else {}
    assert many("GET", **request) == [200] * 12
    assert many("PUT", data=b"x", **request) == [200] * 12
    errors = [answer for answer in many("POST", data=b"x", **request) if not isinstance(answer, int)]
    assert errors
    assert all(len(error.attempts) == 1 and error.attempts[0].sent for error in errors)
    assert many("POST", options={"repeat": True}, data=b"x", **request) == [200] * 12


def test_a_body_that_cannot_be_read_twice_is_not_sent_twice(pods: Team) -> None:
    pods.behave("break")
    with pytest.raises(CallAttemptsFailed, match="cannot be read twice"):
        ask("PUT", "http+model://m/", data=iter([b"a"]))


def test_a_503_is_retried_on_another_pod_if_idempotent(pods: Team) -> None:
    pods.pods[0].behave("status 503")
    assert set(many("GET")) == {200}
    assert set(many("POST")) == {200, 503}
    pods.behave("status 503")
    assert set(many("GET", 3)) == {503}, "the last one is the answer"


@pytest.mark.fault(49)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("timeout", [None, 30, (30, 30)])
def test_a_call_ends_with_its_deadline(method: str, timeout: Any, pods: Team) -> None:
    pods.behave("hang")
    with pytest.raises(CallTimedOut) as caught:
        ask(method, "http+model://m/", {"deadline": 0.6}, timeout=timeout)
    assert isinstance(caught.value, requests.Timeout)
    assert isinstance(caught.value, TimeoutError)


def test_an_answer_that_breaks_off_is_an_error_that_names_the_pod(pods: Team) -> None:
    pods.behave("half")
    with pytest.raises(requests.exceptions.ChunkedEncodingError) as caught:
        ask("POST", "http+model://m/")
    assert isinstance(caught.value, CallAttemptsFailed)
    assert "not idempotent" in caught.value.why


def test_a_key_leads_to_one_pod(pods: Team) -> None:
    with session(key=lambda request: request.headers["Customer"]) as client:
        seen = {client.get("http+model://m/", headers={"Customer": "17"}).json()["pod"] for _ in range(6)}
    assert len(seen) == 1


def test_every_failure_is_an_error_of_requests_and_survives_copies(pods: Team) -> None:
    error = check_failures(pods, lambda model: ask("GET", f"http+model://{model}/"), requests.ConnectionError)
    assert isinstance(error.__cause__, requests.ConnectionError)


# --- connections ----------------------------------------------------------------------------------------------


def test_connections_to_an_address_that_has_gone_are_closed(pods: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmroute.contrib.requests.SWEEP_SECONDS", 0.0)
    adapter = Adapter(policy=Policy())
    with requests.Session() as client:
        client.mount("http+model://", adapter)
        for _ in range(10):
            client.get("http+model://m/")
        assert set(adapter.pools) == {pod.address for pod in pods.pods}
        pods.publish(pods.pods[0])
        client.get("http+model://m/")
        assert set(adapter.pools) == {pods.pods[0].address}
    assert adapter.pools == {}


def test_streams_and_threads_work(pods: Team) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with session() as client, ThreadPoolExecutor(4) as threads:
        with client.get("http+model://m/", stream=True) as response:
            assert b"".join(response.iter_content(7)).startswith(b"{")
        answers = list(threads.map(lambda _: client.get("http+model://m/").status_code, range(100)))
    assert answers == [200] * 100
