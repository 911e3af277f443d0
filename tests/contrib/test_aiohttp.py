"""The aiohttp middleware against real pods: names, redirects, cookies, time-outs, and what follows a failure."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shmroute.calls import Policy, Settings
from shmroute.contrib.aiohttp import Failover, url_for
from shmroute.errors import (
    CallAttemptsFailed,
    CallTimedOut,
    ConfigError,
)
from shmroute.worker.default import _default
from tests.apiserver.tls import make_certificates
from tests.contrib.failures import check_failures
from tests.contrib.pods import PodProcess, Team, team

Said = dict[str, Any]


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


def run(work: Callable[[aiohttp.ClientSession], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    """Do something with a session whose requests to models have these options."""

    async def main() -> Any:
        given = {"policy": Policy(Settings(consecutive_failures=1000))} | options
        async with aiohttp.ClientSession(middlewares=[Failover(**given)]) as session:
            return await work(session)

    return asyncio.run(main())


def ask(method: str, url: Any, options: dict[str, Any] | None = None, **request: Any) -> Said:
    async def work(session: aiohttp.ClientSession) -> Said:
        async with session.request(method, url, **request) as response:
            return {"status": response.status, "url": str(response.url), **await response.json(content_type=None)}

    said: Said = run(work, **(options or {}))
    return said


def many(method: str, count: int = 12, options: dict[str, Any] | None = None, **request: Any) -> list[Any]:
    async def work(session: aiohttp.ClientSession) -> list[Any]:
        answers: list[Any] = []
        for _ in range(count):
            try:
                async with session.request(method, "http://m.model/", **request) as response:
                    answers.append(response.status)
                    await response.read()
            except aiohttp.ClientError as error:
                answers.append(error)
        return answers

    answers: list[Any] = run(work, **(options or {}))
    return answers


# --- names, hosts, redirects ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iiot_dataservice", "IIoT", "a:b", "two words", "zählerß", "1.2.3.4", "x/y?z#@%41"])
def test_any_name_can_be_called_by_url_for(name: str, pods: Team) -> None:
    pods.publish(*pods.pods, model=name)
    assert ask("GET", url_for(name, "/query?a=1"))["target"] == "/query?a=1"


def test_a_plain_name_is_the_host_of_the_url(pods: Team) -> None:
    answer = ask("POST", "http://m.model/query", params={"x": "a b"}, json={"a": 1})
    assert (answer["target"], answer["body"]) == ("/query?x=a+b", '{"a": 1}')
    assert answer["url"] == "http://m.model/query?x=a+b"


def test_other_hosts_pass_unchanged(pods: Team) -> None:
    assert ask("GET", f"http://{pods.pods[1].address}/x")["pod"] == pods.pods[1].address


def test_the_host_is_the_address_unless_the_caller_sets_it(pods: Team) -> None:
    answer = ask("GET", "http://m.model/")
    assert answer["headers"]["host"] == answer["pod"]
    assert ask("GET", "http://m.model/", headers={"Host": "own.example"})["headers"]["host"] == "own.example"


def test_a_port_in_a_models_url_is_refused(pods: Team) -> None:
    with pytest.raises(aiohttp.InvalidURL):
        ask("GET", "http://m.model:8080/")


@pytest.mark.parametrize("location", ["/there", "there"])
def test_a_relative_redirect_leads_back_to_the_model(location: str, pods: Team) -> None:
    pods.behave(f"redirect {location}")
    answer = ask("GET", "http://m.model/redirect", headers={"Authorization": "secret"})
    assert (answer["target"], answer["url"]) == ("/there", "http://m.model/there")
    assert answer["headers"]["authorization"] == "secret"


def test_cookies_are_shared_by_the_pods_of_a_model(pods: Team) -> None:
    pods.behave("cookie 7")

    async def work(session: aiohttp.ClientSession) -> set[tuple[str, str | None]]:
        seen = set()
        for _ in range(20):
            async with session.get("http://m.model/") as response:
                said = await response.json(content_type=None)
                seen.add((said["pod"], said["headers"].get("cookie")))
        return seen

    cookies = run(work)
    assert {(pod.address, "pod=7") for pod in pods.pods} <= cookies


def test_https_checks_the_name_that_the_caller_chooses(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path, names="DNS:models.internal")
    both = tmp_path / "both.pem"
    both.write_text(certificates.certificate.read_text() + certificates.key.read_text())
    context = ssl.create_default_context(cafile=str(certificates.ca))
    with team(1, certificate=both):
        options = {"scheme": "https", "server_hostname": "models.internal"}
        assert ask("GET", "http://m.model/", options, ssl=context)["method"] == "GET"
        with pytest.raises(CallAttemptsFailed, match="CERTIFICATE_VERIFY_FAILED"):
            ask("POST", "http://m.model/", {"scheme": "https"}, ssl=context)


@pytest.mark.parametrize("wrong", [{"scheme": "ftp"}, {"server_hostname": "x"}])
def test_options_that_cannot_be_used_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Failover(**wrong)


# --- failures -------------------------------------------------------------------------------------------------


@pytest.mark.fault(49)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refused_connection_goes_to_the_next_pod(method: str, pods: Team) -> None:
    pods.publish(PodProcess(), pods.pods[0])
    assert many(method) == [200] * 12


@pytest.mark.fault(49)
@pytest.mark.parametrize("behaviour", ["break", "hang", "garbage", "half"])
def test_a_request_that_was_sent_is_repeated_only_if_idempotent(behaviour: str, pods: Team) -> None:
    pods.pods[0].behave(behaviour)
    options = {"deadline": 2.0} if behaviour == "hang" else {}
    count = 4 if behaviour == "hang" else 12
    assert many("GET", count, options) == [200] * count
    assert many("PUT", count, options, data=b"x") == [200] * count
    answers = many("POST", 40, {"deadline": 0.4} if behaviour == "hang" else {}, data=b"x")
    if behaviour == "half":  # the caller of a POST reads the body, and has aiohttp's own error
        assert any(isinstance(answer, aiohttp.ClientPayloadError) for answer in answers)
        return
    errors = [answer for answer in answers if not isinstance(answer, int)]
    assert errors
    assert all(len(error.attempts) == 1 and error.attempts[0].sent for error in errors)
    if behaviour != "hang":
        assert many("POST", 12, {"repeat": True}, data=b"x") == [200] * 12


def test_a_body_that_cannot_be_read_twice_is_not_sent_twice(pods: Team) -> None:
    pods.behave("break")

    async def parts() -> AsyncIterator[bytes]:
        yield b"a"

    with pytest.raises(CallAttemptsFailed, match="cannot be read twice"):
        ask("PUT", "http://m.model/", data=parts())


def test_a_503_is_retried_on_another_pod_if_idempotent(pods: Team) -> None:
    pods.pods[0].behave("status 503")
    assert set(many("GET")) == {200}
    assert set(many("POST")) == {200, 503}
    pods.behave("status 503")
    assert set(many("GET", 3)) == {503}, "the last one is the answer"


@pytest.mark.fault(49)
@pytest.mark.parametrize("behaviour", ["hang", "drip"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_call_ends_with_its_deadline(behaviour: str, method: str, pods: Team) -> None:
    pods.behave(behaviour)
    with pytest.raises(CallTimedOut) as caught:
        ask(method, "http://m.model/", {"deadline": 0.6})
    assert isinstance(caught.value, aiohttp.ServerTimeoutError)
    assert isinstance(caught.value, TimeoutError)


def test_a_body_ends_with_the_deadline(pods: Team) -> None:
    pods.behave("drip body")
    with pytest.raises(aiohttp.ClientError):
        ask("POST", "http://m.model/", {"deadline": 0.6})


def test_options_hold_for_one_request(pods: Team) -> None:
    async def work(session: aiohttp.ClientSession) -> set[str]:
        failover = Failover(policy=Policy())
        pods_seen = set()
        for _ in range(6):
            keyed = [failover.options(key="k")]
            async with session.get("http://m.model/", middlewares=keyed) as response:
                pods_seen.add((await response.json(content_type=None))["pod"])
        return pods_seen

    assert len(run(work)) == 1


def test_every_failure_is_an_error_of_aiohttp_and_survives_copies(pods: Team) -> None:
    error = check_failures(pods, lambda model: ask("GET", f"http://{model}.model/"), aiohttp.ClientConnectionError)
    assert isinstance(error.__cause__, aiohttp.ClientConnectorError)


def test_a_pod_is_busy_until_its_response_is_released(pods: Team) -> None:
    pods.behave("slowbody 0.3")

    async def work(session: aiohttp.ClientSession) -> None:
        async with session.post("http://m.model/") as response:
            assert len(_default._binding.busy) == 1
            await response.read()

    run(work)


def test_a_missing_library_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    for name in ("aiohttp", "requests"):
        importlib.import_module(f"shmroute.contrib.{name}")
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"shmroute.contrib.{name}")
        with pytest.raises(ImportError, match=rf"pip install 'shmroute\[{name}\]'"):
            importlib.import_module(f"shmroute.contrib.{name}")
