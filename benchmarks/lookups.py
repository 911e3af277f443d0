"""Look-ups in a worker: warm, spread, first touch, absent options; metadata and endpoints of a warm route."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks.measured import Measured
from benchmarks.peers import Peer, Table
from benchmarks.peers.shmroute_ import ShmroutePeer
from benchmarks.table import models
from benchmarks.timing import Figure, affordable, figure, interleaved, loop_over, ratio
from shmroute.testing import Answer, routes
from shmroute.worker.routes import Route

PEERS = ("dict_", "informer_dict", "lmdb_", "redis_", "manager_dict", "ultradict", "shared_memory_dict_", "sqlite_")
SLOW_SECONDS = 0.02
"""A competitor slower than this for a round's keys gets fewer of them."""

HOT = 500


@contextmanager
def opened(table: Table, names: Sequence[str]) -> Iterator[tuple[ShmroutePeer, dict[str, Peer], dict[str, None]]]:
    """shmroute and its competitors, filled; and those that are not to be had at this size."""
    with ExitStack() as stack:
        ours = importlib.import_module("benchmarks.peers.shmroute_").open_peer(table)
        stack.callback(ours.close)
        peers: dict[str, Peer] = {}
        missing: dict[str, None] = {}
        for name in names:
            module = importlib.import_module(f"benchmarks.peers.{name}")
            try:
                peer: Peer = module.open_peer(table)
            except Exception as error:  # noqa: BLE001 - a competitor that fails is shown as such
                print(f"  {name} cannot be opened with {len(table)} rows: {error!r}")
                missing[name] = None
                continue
            stack.callback(peer.close)
            peers[peer.name] = peer
        yield ours, peers, missing


def warm(count: int, rounds: int) -> list[Measured]:
    """Hot keys and spread keys, all of them decoded before."""
    table = models(count)
    names = list(table)
    hot = random.Random(1).sample(names, HOT)
    spread = random.Random(2).sample(names, len(names))
    measured = []
    with opened(table, PEERS) as (ours, peers, missing):
        for name in names:
            ours.look_up(name)
        everyone: dict[str, Peer] = {ours.name: ours, **peers}
        loops = {name: loop_over(peer.look_up) for name, peer in everyone.items()}
        for what, keys, repeat, target in (
            ("warm look-up, 500 hot keys", hot, 40, 1.6),
            ("warm look-up, spread keys", spread, 1, 1.3),
        ):
            chosen = keys * repeat
            limits = {name: affordable(peer.look_up, chosen, SLOW_SECONDS) for name, peer in peers.items()}
            taken = interleaved(loops, partial(list, chosen), rounds, limits=limits)
            figures: dict[str, Figure | None] = {name: figure(values) for name, values in taken.items()}
            own = figures.pop(ours.name)
            assert own is not None
            measured.append(
                Measured(
                    what=what,
                    at=f"{count:,} models",
                    unit="s",
                    ours=own,
                    peers={**figures, **missing},
                    compared="x a one-line function around dict.get",
                    value=ratio(taken[ours.name], taken["dict"]),
                    target=target,
                )
            )
    return measured


def first_touch(count: int, rounds: int) -> list[Measured]:
    """Keys that this process has not looked up since everything changed; each decoded on the way."""
    table = models(count)
    names = list(table)
    dice = random.Random(3)
    sample = min(5_000, count // 2)
    with opened(table, ("lmdb_", "redis_", "sqlite_")) as (ours, peers, missing):
        everyone: dict[str, Peer] = {ours.name: ours, **peers}
        loops = {name: loop_over(peer.look_up) for name, peer in everyone.items()}

        def forget(name: str) -> None:
            if name == ours.name:
                ours.forget()

        limits = {name: affordable(peer.look_up, names[:sample], SLOW_SECONDS) for name, peer in peers.items()}
        limits["LMDB"] = sample
        taken = interleaved(loops, lambda: dice.sample(names, sample), rounds, before=forget, limits=limits)
    figures: dict[str, Figure | None] = {name: figure(values) for name, values in taken.items()}
    own = figures.pop(ours.name)
    assert own is not None
    return [
        Measured(
            what="first touch in a generation",
            at=f"{count:,} models",
            unit="s",
            ours=own,
            peers={**figures, **missing},
            compared="x LMDB (transaction, get, the same decoding)",
            value=ratio(taken[ours.name], taken["LMDB"]),
            target=0.8,
        )
    ]


def parts_of_a_route(rounds: int) -> list[Measured]:
    """`resolve(m).pick()` and `resolve(m).metadata`, warm, beside `resolve(m)` alone."""
    names = [f"model_{number}" for number in range(HOT)]
    endpoints = tuple(f"10.0.0.{number}:8060" for number in range(1, 11))
    answers = {
        name: Answer(app="app", endpoints=endpoints, metadata={"version": "v1", "unit": "kWh", "pad": "x" * 4096})
        for name in names
    }
    with routes(dict(answers)) as given:
        from shmroute import resolve

        calls: dict[str, Callable[[str], object]] = {
            "resolve(m)": resolve,
            "resolve(m).pick()": lambda model: resolve(model).pick(),
            "resolve(m).metadata": lambda model: resolve(model).metadata,
        }
        assert given.area
        for call in calls.values():
            for name in names:
                call(name)
        loops = {
            "resolve(m)": loop_over(resolve),
            "resolve(m).pick()": _loop_text("look_up(key).pick()", resolve),
            "resolve(m).metadata": _loop_text("look_up(key).metadata", resolve),
        }
        taken = interleaved(loops, lambda: names * 20, rounds)
    alone = taken["resolve(m)"]
    measured = []
    for name, target in (("resolve(m).pick()", 4.0), ("resolve(m).metadata", None)):
        peers: dict[str, Figure | None] = {"resolve(m)": figure(alone)}
        if name.endswith("metadata"):
            peers["decoding the same 4 KiB"] = figure(_decoding(rounds, answers[names[0]].metadata))
        measured.append(
            Measured(
                what=f"{name}, warm",
                at="500 models, 10 endpoints" if target else "500 models, 4 KiB values",
                unit="s",
                ours=figure(taken[name]),
                peers=peers,
                compared="x resolve(m) alone",
                value=ratio(taken[name], alone),
                target=target,
            )
        )
    return measured


def _loop_text(expression: str, look_up: Callable[[str], Route]) -> Callable[[Sequence[str]], None]:
    scope: dict[str, object] = {"look_up": look_up}
    exec(f"def loop(keys):\n    for key in keys:\n        {expression}\n", scope)
    return scope["loop"]  # type: ignore[return-value]


def _decoding(rounds: int, value: object) -> list[float]:
    import time

    import orjson

    raw = orjson.dumps(value)
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(1000):
            orjson.loads(raw)
        taken.append((time.perf_counter() - started) / 1000)
    return taken
