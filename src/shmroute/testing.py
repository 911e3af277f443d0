"""For users' tests: answers for `resolve` without a watcher, and a real watcher on a folder.

    from shmroute import resolve
    from shmroute.testing import routes

    with routes({"iiot_dataservice": "iiot"}):
        assert resolve("iiot_dataservice").app == "iiot"

Both use real shared memory under an area of their own, so that forked workers see the routes too, and take it away at
the end. `shmroute.pytest_plugin` offers them as fixtures.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from shmroute.client import Reader, use_area
from shmroute.errors import ConfigError
from shmroute.routes import App, Route
from shmroute.rows import EndpointRow, EndpointsRow, EndpointsState, Kind, MetadataRow, MetadataState, RowKey, encode
from shmroute.shm.publisher import Publisher

__all__ = ["Answer", "Routes", "WatchedFolder", "routes", "watched_folder"]

DEFAULT_NAMESPACE: Final = "default"
START_SECONDS: Final = 30.0

_numbers = itertools.count()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What `resolve` shall answer for one model."""

    app: str
    version: str = "v1"
    app_version: str = "v1"
    namespace: str = DEFAULT_NAMESPACE
    endpoints: tuple[str, ...] | None = None
    """``host:port`` each; None for "not known", an empty tuple for "known empty"."""
    metadata: Any = None


Answers: TypeAlias = Mapping[str, "str | Answer"]
"""Model name -> the app's name, or an `Answer`."""


class Routes:
    """The answers in force within `routes`."""

    def __init__(self, area: str) -> None:
        self.area = area
        self._publisher = Publisher(area, now_ns=time.monotonic_ns())
        self._answers: dict[str, Answer] = {}
        self._fresh()

    def set(self, answers: Answers) -> None:
        """Add or replace answers, in one generation."""
        for model, answer in answers.items():
            self._answers[model] = Answer(app=answer) if isinstance(answer, str) else answer
        self._publisher.replace(_rows(self._answers))
        self._fresh()

    def remove(self, *models: str) -> None:
        """Have these models not found any more, in one generation."""
        for model in models:
            self._answers.pop(model, None)
        self._publisher.replace(_rows(self._answers))
        self._fresh()

    def close(self) -> None:
        """Take the area away."""
        self._publisher.close(remove=True)

    def _fresh(self) -> None:
        now_ns = time.monotonic_ns()
        self._publisher.control.beat(now_ns, now_ns, synced=True)


@contextmanager
def routes(answers: Answers) -> Iterator[Routes]:
    """Have `shmroute.resolve` and `shmroute.get` give these answers, in this process and those it forks."""
    given = Routes(_area())
    try:
        given.set(answers)
        use_area(given.area)
        yield given
    finally:
        use_area(None)
        given.close()


class WatchedFolder:
    """A folder of manifests with a real watcher on it."""

    def __init__(self, path: Path, area: str) -> None:
        self.path = path
        self.area = area
        self.reader = Reader(area)

    def write(self, name: str, text: str) -> int:
        """Write a manifest file and wait until what it changed, if anything, is published. Returns the generation."""
        before = self.reader.generation
        temporary = self.path / f".{name}.new"
        temporary.write_text(text)
        temporary.replace(self.path / name)
        deadline = time.monotonic() + START_SECONDS
        while self.reader.generation == before and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.reader.generation


@contextmanager
def watched_folder(path: str | os.PathLike[str]) -> Iterator[WatchedFolder]:
    """Run `shmroute watch --manifests PATH`, and have `resolve` and `get` answer from it, until the block is left.

    Raises:
        NotReady: the watcher has published nothing in 30 s.
    """
    area = _area()
    process = subprocess.Popen(
        [sys.executable, "-m", "shmroute", "watch", "--manifests", os.fspath(path), "--area", area],
        stdin=subprocess.DEVNULL,
    )
    folder = WatchedFolder(Path(path), area)
    try:
        folder.reader.wait_ready(START_SECONDS)
        use_area(area)
        yield folder
    finally:
        use_area(None)
        folder.reader.close()
        process.terminate()
        process.wait(START_SECONDS)
        Publisher(area).close(remove=True)


def _area() -> str:
    return f"test-{os.getpid()}-{next(_numbers)}"


def _rows(answers: Mapping[str, Answer]) -> dict[RowKey, bytes]:
    """The rows of an area in which each model has an AppModel of its own."""
    rows: dict[RowKey, bytes] = {}
    apps: dict[str, list[App]] = {}
    for model, answer in answers.items():
        route = Route(model, answer.version, answer.app, answer.app_version, answer.namespace, model)
        rows[Kind.MODEL, model] = encode(route)
        service = f"{answer.namespace}/{model}"
        apps.setdefault(answer.app, []).append(
            App(answer.app, answer.app_version, answer.namespace, model, service, ((model, answer.version),))
        )
        if answer.endpoints is not None:
            endpoints = tuple(_endpoint(address) for address in answer.endpoints)
            rows[Kind.ENDPOINTS, service] = encode(EndpointsRow(service, EndpointsState.KNOWN, endpoints))
        if answer.metadata is not None:
            value = answer.metadata if isinstance(answer.metadata, bytes) else msgspec.json.encode(answer.metadata)
            rows[Kind.METADATA, service] = encode(
                MetadataRow(answer.app, answer.version, answer.version, MetadataState.LOADED, time.time(), value)
            )
    for app, entries in apps.items():
        rows[Kind.APP, app] = encode(tuple(entries))
    return rows


def _endpoint(address: str) -> EndpointRow:
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit():
        raise ConfigError(f"{address!r} is no endpoint: write host:port")
    return EndpointRow(host.strip("[]"), int(port), ready=True, serving=True, terminating=False)
