"""What a call by a model's name costs beside one of a fixed address: processor time of the client, by httpx."""

from __future__ import annotations

import asyncio
import gc
import random
import ssl
import time
from collections.abc import Callable

import httpx
from tests.contrib.pods import team

from benchmarks.measured import Measured
from benchmarks.timing import figure, ratio
from shmroute.contrib.httpx import AsyncTransport, Transport

SLICES = 30
REQUESTS = 20
"""Of each slice: short, and in turn with the other's, so that what else the machine does is shared out evenly."""

TARGET = 1.08

_BODY = b"x" * 200


def overhead(rounds: int) -> list[Measured]:
    """Both transports, with requests that can be repeated and such that cannot."""
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
