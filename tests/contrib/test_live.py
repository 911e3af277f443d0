"""Calls under load while pods are killed, hang, refuse, restart, move and stop: half of them are idempotent.

Every test runs over each asynchronous client. The long form makes four times as many calls, twice as fast.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import pytest

from shmroute.calls import EndpointEjected, EndpointReturned, Policy
from shmroute.contrib.aiohttp import Failover
from shmroute.contrib.httpx import AsyncTransport
from shmroute.errors import CallAttemptsFailed, CallNoEndpoints, CallTimedOut
from tests.contrib.load import FULL, QUICK, Amount, Load, Result, Send, load
from tests.contrib.pods import PodProcess, team

CONTEXT = ssl.create_default_context()


def by_httpx(policy: Policy, **options: Any) -> Callable[[], Any]:
    @asynccontextmanager
    async def client() -> AsyncIterator[Send]:
        mounts = {"model://": AsyncTransport(policy=policy, **options)}
        async with httpx.AsyncClient(verify=CONTEXT, mounts=mounts, timeout=30) as session:

            async def send(method: str) -> tuple[int, str]:
                response = await session.request(method, "model://m/", content=None if method == "GET" else b"x")
                return response.status_code, response.extensions["endpoint"]

            yield send

    return client


def by_aiohttp(policy: Policy, **options: Any) -> Callable[[], Any]:
    @asynccontextmanager
    async def client() -> AsyncIterator[Send]:
        middlewares = [Failover(policy=policy, **options)]
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(middlewares=middlewares, timeout=timeout) as session:

            async def send(method: str) -> tuple[int, str]:
                data = None if method == "GET" else b"x"
                async with session.request(method, "http://m.model/", data=data) as response:
                    said = await response.json(content_type=None)
                    return response.status, said["pod"]

            yield send

    return client


Client = Callable[..., Callable[[], Any]]


@pytest.fixture(params=[by_httpx, by_aiohttp])
def client(request: pytest.FixtureRequest) -> Client:
    given: Client = request.param
    return given


@pytest.fixture(params=[QUICK, pytest.param(FULL, marks=pytest.mark.long)], ids=["quick", "full"])
def amount(request: pytest.FixtureRequest) -> Amount:
    given: Amount = request.param
    return given


def idempotent(results: list[Result]) -> list[Result]:
    return [result for result in results if result.method != "POST"]


def assert_lost_after_sending(run: Load) -> None:
    """Assert that only unrepeatable requests failed, each after it was sent, with the pod's name in the error."""
    assert not idempotent(run.failed)
    for result in run.failed:
        assert isinstance(result.error, CallAttemptsFailed)
        assert [attempt.sent for attempt in result.error.attempts][-1]


def touches(run: Load, pod: PodProcess, since: int) -> int:
    return run.attempts[since:].count(pod.address)


@pytest.mark.fault(49)
def test_a_killed_pod_fails_no_call_that_can_be_repeated(client: Client, amount: Amount) -> None:
    policy = Policy()
    with team(3) as pods, load(policy, client(policy), amount) as run:
        dead = pods.pods[0]
        run.run_for(50)
        assert len(Counter(run.attempts)) == 3
        dead.kill()
        run.wait_for(lambda: dead.address in policy.outliers.failing("default/m"))
        run.run_for(50)  # what was under way then
        since = len(run.attempts)
        calls = len(run.run_for(250))
        assert touches(run, dead, since) <= calls / 100 + 1
        dead.start()
        run.wait_for(lambda: any(isinstance(event, EndpointReturned) for event in run.events), 15.0)
        since = len(run.attempts)
        run.run_for(150)
        assert touches(run, dead, since) > 10
        assert_lost_after_sending(run)
    counted = policy.counters.attempts["app", "broken after sending"]
    assert len(run.failed) <= counted


@pytest.mark.fault(49)
def test_a_pod_that_hangs_fails_no_call_that_can_be_repeated(client: Client, amount: Amount) -> None:
    policy = Policy()
    with team(3) as pods, load(policy, client(policy, deadline=9.0), amount) as run:
        stuck = pods.pods[0]
        run.run_for(30)
        stuck.behave("hang")
        run.wait_for(lambda: any(isinstance(event, EndpointEjected) for event in run.events))
        run.run_for(200)
        stuck.behave("ok")
        run.wait_for(lambda: any(isinstance(event, EndpointReturned) for event in run.events), 20.0)
        run.run_for(30)
    assert not idempotent(run.failed)
    assert all(isinstance(result.error, CallTimedOut) for result in run.failed)
    assert len(run.failed) < 60, "the less busy pods are preferred, so few calls wait for the one that hangs"


@pytest.mark.fault(49)
def test_a_pod_that_answers_503_is_left_out(client: Client, amount: Amount) -> None:
    policy = Policy()
    with team(3) as pods, load(policy, client(policy), amount) as run:
        bad = pods.pods[0]
        bad.behave("status 503")
        run.wait_for(lambda: any(isinstance(event, EndpointEjected) for event in run.events))
        run.run_for(50)
        since = len(run.attempts)
        calls = len(run.run_for(200))
        assert touches(run, bad, since) <= calls / 100 + 1
        assert not run.failed
        assert {result.status for result in idempotent(run.results)} == {200}


@pytest.mark.fault(49)
def test_a_rolling_restart_with_readiness_first_fails_no_call(client: Client, amount: Amount) -> None:
    """As in Kubernetes, the endpoint is removed, the pod finishes its requests, and a new pod starts."""
    policy = Policy()
    with team(3) as pods, load(policy, client(policy), amount) as run:
        pods.behave("slow 0.03")
        for _ in range(2):
            for pod in pods.pods:
                run.run_for(20)
                pods.publish(*(each for each in pods.pods if each is not pod))
                run.run_for(10)  # 0.1 s or more, in which a preStop hook sleeps
                pod.terminate()
                pod.wait()
                pod.start()
                pods.publish(*pods.pods)
        run.run_for(30)
    assert run.failed == []
    assert {result.status for result in run.results} == {200}


def test_moving_a_model_to_another_app_fails_no_call(client: Client, amount: Amount) -> None:
    policy = Policy()
    with team(4) as pods, load(policy, client(policy), amount) as run:
        before, after = pods.pods[:2], pods.pods[2:]
        for _ in range(5):
            for side in (before, after):
                pods.publish(*side, app="one" if side is before else "two")
                addresses = {pod.address for pod in side}
                run.wait_for(lambda: {result.endpoint for result in run.results[-20:]} == addresses)  # noqa: B023
    assert run.failed == []


def test_scaled_to_zero_is_reported_and_the_first_new_pod_serves(client: Client, amount: Amount) -> None:
    policy = Policy()
    with team(2) as pods, load(policy, client(policy), amount) as run:
        run.run_for(50)
        pods.publish()
        run.wait_for(lambda: all(result.error for result in run.results[-50:]))
        error = run.results[-1].error
        assert isinstance(error, CallNoEndpoints)
        assert error.reason == "known empty"
        pods.publish(pods.pods[1])
        run.wait_for(lambda: {result.endpoint for result in run.results[-50:]} == {pods.pods[1].address})


@pytest.mark.fault(49)
def test_all_pods_down_causes_no_storm_and_the_first_one_serves(client: Client, amount: Amount) -> None:
    policy = Policy()
    with team(3) as pods, load(policy, client(policy), amount) as run:
        run.run_for(50)
        for pod in pods.pods:
            pod.kill()
        run.run_for(50)
        since, began = len(run.attempts), policy.clock()
        down = run.run_for(200)
        attempts, seconds = len(run.attempts) - since, policy.clock() - began
        assert all(isinstance(result.error, CallAttemptsFailed) for result in down)
        assert attempts <= len(down) * 1.2 + 10 * seconds + 100 + 20, "the budget, its store, and calls under way"
        assert "no further attempt" in str(down[0].error)
        pods.pods[1].start()
        before = len(run.results)
        run.wait_for(lambda: any(result.status for result in run.results[before:]))
        first = next(index for index, result in enumerate(run.results[before:]) if result.status)
        assert first < amount.calls_per_second, "1 s of calls"
        run.wait_for(lambda: all(result.status for result in run.results[-100:]))


@pytest.mark.fault(49)
def test_third_pod_gets_all_calls_once_two_are_killed(client: Client, amount: Amount) -> None:
    policy = Policy()
    with team(3) as pods, load(policy, client(policy), amount) as run:
        run.run_for(50)
        for pod in pods.pods[:2]:
            pod.kill()
        run.run_for(250)
        assert_lost_after_sending(run)
        assert len(run.failed) < 20
