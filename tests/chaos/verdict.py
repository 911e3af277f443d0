"""Conditions at the end: rows equal a fresh list, metadata equals Redis, no memory has grown, no request failed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import redis

from shmroute.errors import NotReady
from shmroute.resources.appmodel import AppModel, InvalidAppModel, parse_appmodel
from shmroute.resources.endpointslice import EndpointSlice, parse_endpointslice
from shmroute.rows import Kind, MetadataRow, MetadataState
from shmroute.shm.names import segment_names
from shmroute.shm.reader import RowReader
from shmroute.sources.base import Replaced
from shmroute.tables import Index
from shmroute.worker.routes import Route
from tests.chaos.stage import Stage
from tests.chaos.world import NAMESPACE

CONVERGE_SECONDS = 120.0
"""Longest wait for the end state: two probe periods, the longest back-off, and slack for a stalled machine."""

AUDIT_SECONDS = 20.0
"""Seconds between two audits during the wait; one takes its grace of 5 s and a list."""

GROWTH_BYTES = 48 * 1024 * 1024
DESCRIPTORS = 40
MAX_SEGMENTS = 4

_FOLLOWED = (Kind.MODEL, Kind.APP, Kind.ENDPOINTS, Kind.CONFLICT)


def verdict(stage: Stage) -> list[str]:
    """Return everything that does not hold."""
    problems = [f"look-up: {defect}" for defect in stage.defects[:10]]
    if len(stage.defects) > 10:
        problems.append(f"and {len(stage.defects) - 10} more look-ups")
    problems += _converged(stage)
    falls = [(a, b) for a, b in zip(stage.generations, stage.generations[1:], strict=False) if b < a]
    problems += [f"generation fell from {before} to {after}" for before, after in falls[:3]]
    segments = segment_names(stage.area)
    if len(segments) > MAX_SEGMENTS:
        problems.append(f"{len(segments)} segments are left: {segments}")
    problems += _grown(stage)
    return problems


def _converged(stage: Stage) -> list[str]:
    """Wait until the served rows equal the expected ones; return the differences if they never do.

    An audit is asked for, as `shmroute audit` does, since some acts lose events for good: the watch goes on behind
    them, and only a fresh list can tell.
    """
    deadline = time.monotonic() + CONVERGE_SECONDS
    audit_at = 0.0
    while problems := _differences(stage):
        now = time.monotonic()
        if now > deadline:
            return problems
        if now >= audit_at and stage.writer_pid:
            os.kill(stage.writer_pid, signal.SIGUSR1)
            audit_at = now + AUDIT_SECONDS
        time.sleep(0.25)
    return []


def _differences(stage: Stage) -> list[str]:
    expected = _expected(stage)
    try:
        reader = RowReader(stage.area)
    except (NotReady, ValueError) as error:
        return [f"the area cannot be read: {error}"]
    served = {(kind, key): value for kind, key, value in reader.rows() if kind in _FOLLOWED}
    problems = [f"row {key} is missing" for key in sorted(expected.keys() - served.keys())]
    problems += [f"row {key} is left over" for key in sorted(served.keys() - expected.keys())]
    problems += [
        f"row {key} differs" for key in sorted(served.keys() & expected.keys()) if served[key] != expected[key]
    ]
    return (problems + _metadata_differences(stage, reader))[:10]


def _expected(stage: Stage) -> dict[tuple[int, str], bytes]:
    """Return the rows an index makes of a list taken now, by a path that shares nothing with the watcher."""
    index = Index()
    appmodels: list[AppModel | InvalidAppModel] = [
        parse_appmodel(msgspec.json.encode(item)) for item in stage.api.list("appmodels", NAMESPACE)
    ]
    slices = [parse_endpointslice(msgspec.json.encode(item)) for item in stage.api.list("endpointslices", NAMESPACE)]
    index.apply(Replaced("appmodels", tuple(appmodels)))
    index.apply(Replaced("endpointslices", tuple(each for each in slices if isinstance(each, EndpointSlice))))
    rows = {key: value for key, value in index.rows() if key[0] in _FOLLOWED}
    return {key: _remembering(stage, key, value) for key, value in rows.items()}


def _remembering(stage: Stage, key: tuple[int, str], value: bytes) -> bytes:
    """Return the row, as known empty if the watcher saw the Service's slices: a fresh list cannot tell."""
    if key[0] != Kind.ENDPOINTS:
        return value
    served = RowReader(stage.area).get(*key)
    both_empty = served is not None and not _endpoints(served) and not _endpoints(value)
    return served if both_empty and served is not None else value


def _endpoints(value: bytes) -> Any:
    return msgspec.msgpack.decode(value)[2]


def _metadata_differences(stage: Stage, reader: RowReader) -> list[str]:
    problems = []
    with redis.Redis.from_url(stage.redis.url, socket_timeout=2) as store:
        for _, _, value in reader.rows(Kind.MODEL):
            route = msgspec.msgpack.decode(value, type=Route)
            stored = store.get(f"{route.app}_{route.model}")
            raw = reader.get(Kind.METADATA, f"{route.namespace}/{route.model}")
            row = msgspec.msgpack.decode(raw, type=MetadataRow) if raw else None
            version = msgspec.json.decode(stored).get("version") if isinstance(stored, bytes) else None
            if version != route.version:
                continue  # the store holds no value of that version: nothing to be loaded
            if row is None or row.state != MetadataState.LOADED or row.value != stored:
                state = MetadataState(row.state).name if row else "absent"
                problems.append(f"metadata of {route.model} {route.version} is {state}")
    return problems


def _grown(stage: Stage) -> list[str]:
    problems = []
    for pid, sizes in stage.sizes.items():
        warm = sizes[min(len(sizes) - 1, 200)][0]
        last, descriptors = sizes[-1]
        if last - warm > GROWTH_BYTES:
            problems.append(f"worker {pid} grew from {warm} to {last} bytes")
        if descriptors > DESCRIPTORS:
            problems.append(f"worker {pid} holds {descriptors} descriptors")
    writer = stage.writer_pid
    if writer:
        held = len(list(Path(f"/proc/{writer}/fd").iterdir()))
        if held > DESCRIPTORS:
            problems.append(f"the watcher holds {held} descriptors")
        mapped = [line for line in Path(f"/proc/{writer}/maps").read_text().splitlines() if "(deleted)" in line]
        if len([line for line in mapped if "shmroute" in line]) > MAX_SEGMENTS:
            problems.append(f"the watcher maps {len(mapped)} deleted objects")
    return problems
