"""For users' tests: answers for `resolve` without a watcher, and a real watcher on a folder.

    from shmroute import resolve
    from shmroute.testing import routes

    with routes({"iiot_dataservice": "iiot"}):
        assert resolve("iiot_dataservice").app == "iiot"

Both use real shared memory under an area of their own, and take it away at the end. `SHMROUTE_AREA` names it meanwhile,
so that processes that are forked or started see the routes too. They can be nested: the innermost is in force.
`shmroute.pytest_plugin` offers them as fixtures.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from shmroute.errors import ConfigError, NotReady
from shmroute.rows import EndpointRow, EndpointsRow, EndpointsState, Kind, MetadataRow, MetadataState, RowKey, encode
from shmroute.shm.writing.publisher import Publisher
from shmroute.supervise.cleanup import remove_area
from shmroute.supervise.lifeline import Lifeline
from shmroute.worker.default import use_area
from shmroute.worker.reader import Reader
from shmroute.worker.routes import App, Route

__all__ = ["Answer", "Answers", "Routes", "WatchedFolder", "routes", "watched_folder"]

DEFAULT_NAMESPACE: Final = "default"

START_SECONDS: Final = 30.0
"""A watcher takes less than a second to start; a busy machine may need more."""

STOP_SECONDS: Final = 10.0

FOREVER_NS: Final = 7 * 86_400 * 1_000_000_000
"""Longer than any test takes."""

_OLDEST_NS: Final = 1 << 62
"""What a control block can still say."""

QUIET_SECONDS: Final = 0.05
"""What one file changes is published in one generation, or in two at once."""

_STEP_SECONDS: Final = 0.005

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

    def set(self, answers: Answers) -> None:
        """Add or replace answers, in one generation."""
        for model, answer in answers.items():
            self._answers[model] = Answer(app=answer) if isinstance(answer, str) else answer
        self._publisher.replace(_rows(self._answers))
        self.look_old(0.0)

    def remove(self, *models: str) -> None:
        """Have these models not found any more, in one generation."""
        for model in models:
            self._answers.pop(model, None)
        self._publisher.replace(_rows(self._answers))
        self.look_old(0.0)

    def close(self) -> None:
        """Take the area away."""
        self._publisher.close(remove=True)

    def look_old(self, seconds: float) -> None:
        """Have the routes look as if they had last been in step with a source `seconds` ago, for `max_age` and `age`.

        They do not grow old by themselves, and are as new after each `set` and `remove`.
        """
        now_ns = time.monotonic_ns()
        contact_ns = now_ns - int(min(seconds * 1e9, _OLDEST_NS)) if seconds else now_ns + FOREVER_NS
        self._publisher.control.beat(now_ns, contact_ns, synced=True)


@contextmanager
def routes(answers: Answers) -> Iterator[Routes]:
    """Have `shmroute.resolve` and `shmroute.get` give these answers, until the block is left.

    Raises:
        ConfigError: an endpoint is not written as `host:port`.
    """
    given = Routes(_area())
    try:
        given.set(answers)
        with _in_force(given.area):
            yield given
    finally:
        given.close()


class WatchedFolder:
    """A folder of manifests with a real watcher on it."""

    def __init__(self, path: Path, area: str) -> None:
        self.path = path
        self.area = area
        self.reader = Reader(area)

    def write(self, name: str, text: str) -> int:
        """Write a manifest file, and wait until what it changes, if anything, is published. Returns the generation.

        Raises:
            NotReady: the watcher has noticed nothing in 30 s.
        """
        before = self.reader.generation
        temporary = self.path / f".{name}.new"
        temporary.write_text(text)
        temporary.replace(self.path / name)
        return self._settled(before)

    def remove(self, name: str) -> int:
        """Remove a manifest file, and wait as `write` does. Returns the generation."""
        before = self.reader.generation
        (self.path / name).unlink()
        return self._settled(before)

    def _settled(self, before: int) -> int:
        done = time.monotonic()
        while self.reader.generation == before:
            if time.monotonic() - self.reader.age > done:
                return before  # read, and nothing has changed
            if time.monotonic() > done + START_SECONDS:
                raise NotReady(self.area, START_SECONDS)
            time.sleep(_STEP_SECONDS)
        newest, since = self.reader.generation, time.monotonic()
        while time.monotonic() < since + QUIET_SECONDS:
            time.sleep(_STEP_SECONDS)
            if self.reader.generation != newest:
                newest, since = self.reader.generation, time.monotonic()
        return newest


@contextmanager
def watched_folder(path: str | os.PathLike[str], options: Sequence[str] = ()) -> Iterator[WatchedFolder]:
    """Run `shmroute watch --manifests PATH`, and have `resolve` and `get` answer from it, until the block is left.

    Args:
        path: the folder.
        options: further options of `shmroute watch`, such as `["--metadata", "folder"]`.

    Raises:
        NotReady: the watcher has published nothing in 30 s.
    """
    area = _area()
    lifeline = Lifeline()
    command = [sys.executable, "-m", "shmroute", "watch", "--manifests", os.fspath(path), *options]
    process = subprocess.Popen(
        [*command, "--area", area, "--lifeline", str(lifeline.watched), "--keeper", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        pass_fds=(lifeline.watched,),
    )
    lifeline.close_watched()
    folder = WatchedFolder(Path(path), area)
    try:
        folder.reader.wait_ready(START_SECONDS)
        with _in_force(area):
            yield folder
    finally:
        folder.reader.close()
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()
            process.wait()
            lifeline.release()
            remove_area(area)


@contextmanager
def _in_force(area: str) -> Iterator[None]:
    former = os.environ.get("SHMROUTE_AREA")
    os.environ["SHMROUTE_AREA"] = area
    use_area(None)
    try:
        yield
    finally:
        if former is None:
            del os.environ["SHMROUTE_AREA"]
        else:
            os.environ["SHMROUTE_AREA"] = former
        use_area(None)


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
