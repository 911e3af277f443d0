"""Client CPU time of a call by a model's name, compared with one of a fixed address."""

from __future__ import annotations

import asyncio
import gc
import random
import ssl
import time
from collections.abc import Awaitable, Callable

import aiohttp
import httpx
from tests.contrib.pods import team

from benchmarks.measured import Measured
from benchmarks.timing import figure, ratio
from shmroute.contrib.aiohttp import Failover
from shmroute.contrib.httpx import AsyncTransport, Transport

SLICES = 30
REQUESTS = 20
"""Number of requests in each slice. Short slices of both sides alternate, so that other load affects both equally."""

AT_A_TIME = 60
"""Calls in progress in a busy gateway, for instance while a pod hangs."""

TARGET = 1.08

_BODY = b"x" * 200


def overhead(rounds: int) -> list[Measured]:
    """Measure both transports, with requests that can be repeated and such that cannot."""
    measured = []
    context = ssl.create_default_context()
    with team(1) as given, httpx.Client(verify=context, mounts={"model://": Transport()}) as client:
        fixed = f"http://{given.pods[0].address}/query"
        for method, content in (("GET", None), ("POST", _BODY)):

            def threaded(url: str, method: str = method, content: bytes | None = content) -> float:
                began = time.process_time()
                for _ in range(REQUESTS):
                    client.request(method, url, content=content)
                return (time.process_time() - began) / REQUESTS

            measured.append(_measured(f"{method} by httpx.Client", threaded, fixed, rounds))
        loop = asyncio.new_event_loop()
        session = httpx.AsyncClient(verify=context, mounts={"model://": AsyncTransport()})

        async def run(url: str) -> float:
            began = time.process_time()
            for _ in range(REQUESTS):
                await session.post(url, content=_BODY)
            return (time.process_time() - began) / REQUESTS

        measured.append(
            _measured("POST by httpx.AsyncClient", lambda url: loop.run_until_complete(run(url)), fixed, rounds)
        )
        loop.run_until_complete(session.aclose())
        loop.close()
    return measured


def _measured(what: str, send: Callable[[str], float], fixed: str, rounds: int) -> Measured:
    urls = {"model": "model://m/query", "address": fixed}
    taken: dict[str, list[float]] = {name: [] for name in urls}
    order = list(urls)
    dice = random.Random(4)
    for name in order:
        send(urls[name])
    for _ in range(rounds):
        gc.collect()
        seconds = dict.fromkeys(urls, 0.0)
        for _ in range(SLICES):
            dice.shuffle(order)
            for name in order:
                seconds[name] += send(urls[name])
        for name in urls:
            taken[name].append(seconds[name] / SLICES)
    return Measured(
        what=what,
        at="one pod, connections kept, 200 bytes",
        unit="s",
        ours=figure(taken["model"]),
        peers={"httpx, fixed address": figure(taken["address"])},
        compared="x httpx with a fixed address (CPU time)",
        value=ratio(taken["model"], taken["address"]),
        target=TARGET,
    )


def many_at_a_time(rounds: int) -> list[Measured]:
    """Measure calls that one asyncio program makes at once: httpx searches all its connections for each of them."""
    taken: dict[str, list[float]] = {}
    with team(1) as given, asyncio.Runner() as runner:
        pod = given.pods[0].address

        async def measure() -> None:
            limits = httpx.Limits(max_connections=AT_A_TIME, max_keepalive_connections=AT_A_TIME)
            mounts = {"model://": AsyncTransport(limits=limits)}
            async with (
                httpx.AsyncClient(limits=limits, mounts=mounts) as by_httpx,
                aiohttp.ClientSession(middlewares=[Failover()]) as by_aiohttp,
            ):

                async def post(url: str) -> None:
                    async with by_aiohttp.post(url, data=_BODY) as answer:
                        await answer.read()

                sends: dict[str, Callable[[], Awaitable[object]]] = {
                    "aiohttp, model": lambda: post("http://m.model/query"),
                    "aiohttp, fixed address": lambda: post(f"http://{pod}/query"),
                    "httpx, model": lambda: by_httpx.post("model://m/query", content=_BODY),
                    "httpx, fixed address": lambda: by_httpx.post(f"http://{pod}/query", content=_BODY),
                }
                order = list(sends)
                dice = random.Random(5)
                for number in range(rounds + 1):
                    dice.shuffle(order)
                    for name in order:
                        began = time.process_time()
                        await asyncio.gather(*(sends[name]() for _ in range(AT_A_TIME)))
                        if number:  # the first round opens the connections
                            taken.setdefault(name, []).append((time.process_time() - began) / AT_A_TIME)

        runner.run(measure())
    ours = taken.pop("aiohttp, model")
    return [
        Measured(
            what="POST by aiohttp, many at a time",
            at=f"one pod, {AT_A_TIME} at a time, 200 bytes",
            unit="s",
            ours=figure(ours),
            peers={name: figure(seconds) for name, seconds in taken.items()},
            compared="x httpx with a fixed address (CPU time)",
            value=ratio(ours, taken["httpx, fixed address"]),
        )
    ]
