"""Look-ups in a worker, by both twins: warm, spread, first touch, refresh; metadata and endpoints of a warm route."""

from __future__ import annotations

import importlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import msgspec
from msgspec.structs import astuple

from benchmarks.measured import Measured
from benchmarks.peers import Peer, Table
from benchmarks.peers.shmroute_ import ShmroutePeer
from benchmarks.table import models
from benchmarks.timing import Figure, affordable, figure, interleaved, loop_over, ratio
from shmroute.shm.layout import FIRST_TABLE_KIND
from shmroute.testing import Answer, routes
from shmroute.worker.lookup import NATIVE, TableLookup
from shmroute.worker.routes import Route

PEERS = (
    "shmroute_plain_",
    "dict_",
    "informer_dict",
    "lmdb_",
    "redis_",
    "manager_dict",
    "ultradict",
    "shared_memory_dict_",
    "sqlite_",
)
PLAIN = "shmroute, plain"
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


def warm(count: int, rounds: int, *, spread: bool = True) -> list[Measured]:
    """Measure warm look-ups of hot keys and of spread keys: all were decoded before.

    Without spread keys, only the competitor of the target is measured beside them.
    """
    table = models(count)
    names = list(table)
    hot = random.Random(1).sample(names, HOT)
    keys_of_rows = [("warm look-up, 500 hot keys", hot, 40, 0.65, 2.7)]
    if spread:
        keys_of_rows.append(("warm look-up, spread keys", random.Random(2).sample(names, len(names)), 1, 1.0, 1.8))
    measured = []
    with opened(table, PEERS if spread else ("shmroute_plain_", "dict_")) as (ours, peers, missing):
        for name in names:
            ours.look_up(name)
            peers[PLAIN].look_up(name)
        everyone: dict[str, Peer] = {ours.name: ours, **peers}
        loops = {name: loop_over(peer.look_up) for name, peer in everyone.items()}
        for what, keys, repeat, target, plain_target in keys_of_rows:
            chosen = keys * repeat
            limits = {name: affordable(peer.look_up, chosen, SLOW_SECONDS) for name, peer in peers.items()}
            taken = interleaved(loops, partial(list, chosen), rounds, limits=limits)
            figures: dict[str, Figure | None] = {name: figure(values) for name, values in taken.items()}
            own = figures.pop(ours.name)
            assert own is not None
            one_line = "x a one-line function around dict.get"
            measured.append(
                Measured(
                    what=what,
                    at=f"{count:,} models",
                    unit="s",
                    ours=own,
                    peers={**figures, **missing},
                    compared=one_line,
                    value=ratio(taken[ours.name], taken["dict"]),
                    target=target if NATIVE else plain_target,
                )
            )
            plain = ratio(taken[PLAIN], taken["dict"])
            measured.append(_plain(what, count, figure(taken[PLAIN]), one_line, plain, plain_target))
    return measured


def _plain(what: str, count: int, taken: Figure, compared: str, value: float, target: float) -> Measured:
    """Return the row of the plain twin."""
    at = f"{count:,} models"
    return Measured(
        what=f"{what}, plain twin", at=at, unit="s", ours=taken, compared=compared, value=value, target=target
    )


def first_touch(count: int, rounds: int) -> list[Measured]:
    """Measure the first look-up of keys after all rows changed; each row is decoded."""
    table = models(count)
    names = list(table)
    dice = random.Random(3)
    sample = min(5_000, count // 2)
    with opened(table, ("shmroute_plain_", "lmdb_", "redis_", "sqlite_")) as (ours, peers, missing):
        everyone: dict[str, Peer] = {ours.name: ours, **peers}
        loops = {name: loop_over(peer.look_up) for name, peer in everyone.items()}

        def forget(name: str) -> None:
            if isinstance(peer := everyone[name], ShmroutePeer):
                peer.forget()

        limits = {name: affordable(peer.look_up, names[:sample], SLOW_SECONDS) for name, peer in peers.items()}
        limits["LMDB"] = limits[PLAIN] = sample
        taken = interleaved(loops, lambda: dice.sample(names, sample), rounds, before=forget, limits=limits)
    figures: dict[str, Figure | None] = {name: figure(values) for name, values in taken.items()}
    own = figures.pop(ours.name)
    assert own is not None
    what, compared = "first touch in a generation", "x LMDB (transaction, get, the same decoding)"
    return [
        Measured(
            what=what,
            at=f"{count:,} models",
            unit="s",
            ours=own,
            peers={**figures, **missing},
            compared=compared,
            value=ratio(taken[ours.name], taken["LMDB"]),
            target=0.7 if NATIVE else 2.0,
        ),
        _plain(what, count, figure(taken[PLAIN]), compared, ratio(taken[PLAIN], taken["LMDB"]), 2.0),
    ]


class Tenant(msgspec.Struct):
    """A row of a user's own table."""

    code: str
    quota: int
    region: str
    plans: tuple[str, ...] = ()


class _TenantTable(TableLookup):
    def _look_up(self, key: str) -> Tenant:
        raise AssertionError(f"{key} is there")


def typed_first_touch(count: int, rounds: int) -> list[Measured]:
    """First touch of a row that msgspec decodes into a type of the user's, by the native twin, beside LMDB."""
    if not NATIVE:
        return []
    names = [f"tenant-{number:07}" for number in range(count)]
    table = {
        name: msgspec.msgpack.encode(Tenant(name, number, f"region-{number % 7}", ("basic", "gold")))
        for number, name in enumerate(names)
    }
    decode = msgspec.msgpack.Decoder(Tenant).decode
    lmdb = importlib.import_module("benchmarks.peers.lmdb_").open_peer(table, decode)
    ours = ShmroutePeer({})
    ours.publisher.replace({(FIRST_TABLE_KIND, name): value for name, value in table.items()})
    tenants = _TenantTable(FIRST_TABLE_KIND, decode, msgspec.DecodeError, count)
    rows = ours.reader._position.newest()
    tenants._enable(
        rows.control.buffer, rows.segment.buffer, astuple(rows.segment.header), rows.end, float(rows.generation)
    )
    dice = random.Random(5)
    try:
        taken = interleaved(
            {"shmroute": loop_over(tenants.__getitem__), "LMDB": loop_over(lmdb.look_up)},
            lambda: dice.sample(names, min(5_000, count // 2)),
            rounds,
            before=lambda _: tenants._drop_all(),
        )
    finally:
        lmdb.close()
        ours.close()
    return [
        Measured(
            what="first touch of a row decoded into a user's type",
            at=f"{count:,} rows",
            unit="s",
            ours=figure(taken["shmroute"]),
            peers={"LMDB": figure(taken["LMDB"])},
            compared="x LMDB (transaction, get, the same decoding)",
            value=ratio(taken["shmroute"], taken["LMDB"]),
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
    for name, at in (("resolve(m).pick()", "10 endpoints"), ("resolve(m).metadata", "4 KiB values")):
        peers: dict[str, Figure | None] = {"resolve(m)": figure(alone)}
        if name.endswith("metadata"):
            peers["decoding the same 4 KiB"] = figure(_decoding(rounds, answers[names[0]].metadata))
        measured.append(
            Measured(
                what=f"{name}, warm",
                at=f"{HOT} models, {at}",
                unit="s",
                ours=figure(taken[name]),
                peers=peers,
                compared="x resolve(m) alone",
                value=ratio(taken[name], alone),
                target=None,
            )
        )
    return measured


def _loop_text(expression: str, look_up: Callable[[str], Route]) -> Callable[[Sequence[str]], None]:
    scope: dict[str, object] = {"look_up": look_up}
    exec(f"def loop(keys):\n    for key in keys:\n        {expression}\n", scope)
    return scope["loop"]  # type: ignore[return-value]


def _decoding(rounds: int, value: object) -> list[float]:

    import orjson

    raw = orjson.dumps(value)
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(1000):
            orjson.loads(raw)
        taken.append((time.perf_counter() - started) / 1000)
    return taken
