"""Helpers for users' tests: answers for `resolve` and `table` without a watcher, and a real watcher on a folder.

    from shmroute import resolve
    from shmroute.testing import routes

    with routes({"iiot_dataservice": "iiot"}):
        assert resolve("iiot_dataservice").app == "iiot"

    with tables({"flags": {"checkout": {"enabled": "true"}}}):
        assert table("flags")["checkout"] == {"enabled": "true"}

`pod_server` runs an HTTP server that such a route can lead to; a test can make it refuse, hang or answer 503.

`routes` and `tables` write to real shared memory, in an area of their own, which they remove at the end. Meanwhile
`SHMROUTE_AREA` names that area, so child processes see the routes too. Blocks can be nested: the innermost one answers.
Without a `/dev/shm`, set `SHMROUTE_DIR` to any folder before the tests start. `shmroute.pytest_plugin` has fixtures.
"""

from __future__ import annotations

import http.server
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec

from shmroute.errors import ConfigError, NotReady
from shmroute.resources.table import watch_tables
from shmroute.resources.table_definition import TableDefinition
from shmroute.resources.table_parser import InvalidTableObject
from shmroute.rows import (
    AppRow,
    EndpointRow,
    EndpointsRow,
    EndpointsState,
    Kind,
    MetadataRow,
    MetadataState,
    RouteRow,
    RowKey,
    encode,
)
from shmroute.shm.writing.publisher import Publisher
from shmroute.sources.base import Replaced
from shmroute.supervise.cleanup import remove_area
from shmroute.supervise.lifeline import Lifeline
from shmroute.tables import Index
from shmroute.worker.default import use_area
from shmroute.worker.reader import Reader

__all__ = [
    "Answer",
    "Answers",
    "Pod",
    "PodServer",
    "Routes",
    "Tables",
    "WatchedFolder",
    "not_ready",
    "pod_server",
    "routes",
    "tables",
    "watched_folder",
]

DEFAULT_NAMESPACE: Final = "default"

START_SECONDS: Final = 30.0
"""Longest wait for the first snapshot. A watcher takes less than a second to start; a busy machine may need more."""

STOP_SECONDS: Final = 10.0
"""Longest wait for a watcher's end, in seconds; then it is killed."""

FOREVER_NS: Final = 7 * 86_400 * 1_000_000_000
"""Time by which the last contact lies in the future, in nanoseconds: longer than any test takes, so the age stays 0."""

_OLDEST_NS: Final = 1 << 62
"""Greatest age that a control block can hold, in nanoseconds."""

QUIET_SECONDS: Final = 0.05
"""Time without a further generation after which a change counts as published: a file may take two generations."""

_STEP_SECONDS: Final = 0.005

_numbers = itertools.count()

MetadataStateWord: TypeAlias = Literal["loaded", "pending", "missing", "outdated", "too-large", "wrong-type"]


class Pod(msgspec.Struct, frozen=True):
    """One pod of an app, for tests that need more than its address."""

    address: str
    """``host:port``, such as ``10.0.0.1:80`` or ``[fd00::1]:80``."""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zone: str = ""
    hints: tuple[str, ...] = ()
    """Zones whose callers should prefer this pod; empty: all zones."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `resolve` for one model."""

    app: str
    version: str = "v1"
    """The model's version."""
    app_version: str = "v1"
    namespace: str = DEFAULT_NAMESPACE
    endpoints: tuple[str | Pod, ...] | None = None
    """Addresses as ``host:port``, or a `Pod` each. None: not known. An empty tuple: known to be empty."""
    ambiguous_ports: tuple[str, ...] = ()
    """Names of several ports of which none is chosen, so that `pick` raises. Replaces `endpoints`."""
    metadata: Any = None
    """Value of the metadata: bytes are used unchanged, anything else is encoded as JSON. None: there is no value."""
    metadata_state: MetadataStateWord | None = None
    """Value of `Route.metadata_state`. Default: "loaded" with a value, and "off" (no metadata at all) without."""
    metadata_version: str | None = None
    """Model version that the value was read for, if it is not `version`: then only `last_metadata` gives the value."""


Answers: TypeAlias = Mapping[str, "str | Answer"]
"""Model name -> the app's name, or an `Answer`."""


class _Declared(msgspec.Struct, frozen=True):
    """A table that a test has set. Without `objects` (None), its first complete list is still missing."""

    objects: Mapping[str, Any] | None
    index: Mapping[str, str] = {}


class Tables:
    """The declared tables of a `tables` or `routes` block."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._declared: dict[str, _Declared] = {}
        self._rows: dict[RowKey, bytes] = {}

    def set(self, name: str, objects: Mapping[str, Any], index: Mapping[str, str] | None = None) -> None:
        """Replace all objects of the table, in one generation.

        Args:
            name: the table's name.
            objects: key -> value; anything that msgspec writes as JSON, such as an instance of the table's type.
            index: name of an index -> its JSONPath, which begins at the value (`.region`, `.hosts[*]`); by default the
                indexes of the last call for this table.

        Raises:
            ConfigError: a name, a path or an object cannot be used. Nothing changes then.
        """
        if index is None:
            index = self._declared[name].index if name in self._declared else {}
        self._declare({**self._declared, name: _Declared(dict(objects), dict(index))})

    def not_ready(self, name: str) -> None:
        """Make the table raise `TableNotReady`, as before its first complete list."""
        self._declare({**self._declared, name: _Declared(None)})

    def remove(self, name: str) -> None:
        """Make the table raise `TableNotFound`, as if no watcher had declared it."""
        self._declare({each: declared for each, declared in self._declared.items() if each != name})

    def _declare(self, declared: dict[str, _Declared]) -> None:
        rows = _table_rows(declared)
        self._declared, self._rows = declared, rows
        self._routes.set({})


class Routes:
    """The answers of a `routes` block."""

    def __init__(self, area: str) -> None:
        self.area = area
        self._publisher = Publisher(area, now_ns=time.monotonic_ns())
        self._answers: dict[str, Answer] = {}
        self.tables = Tables(self)
        """The declared tables of the same block."""

    def set(self, answers: Answers) -> None:
        """Add or replace answers, in one generation. Sets the age of the routes to 0.

        Raises:
            ConfigError: an answer cannot be used. Nothing changes then.
        """
        if not isinstance(answers, Mapping):
            raise ConfigError(f"{answers!r}: write a dict, model's name -> app's name or Answer")
        self._publish({**self._answers, **{model: _answer(model, answers[model]) for model in answers}})

    def remove(self, *models: str) -> None:
        """Remove these models, in one generation: `resolve` finds them no longer. Sets the age of the routes to 0."""
        self._publish({model: answer for model, answer in self._answers.items() if model not in models})

    def _publish(self, answers: dict[str, Answer]) -> None:
        self._publisher.replace(_rows(answers) | self.tables._rows)
        self._answers = answers
        self.set_age(0.0)

    def set_age(self, seconds: float) -> None:
        """Set the age of routes and tables: the seconds since they last matched their source.

        `Reader.age`, `Table.age` and `max_age` see this age, which stays constant until `set`, `remove` or another
        `set_age`.

        Raises:
            ConfigError: `seconds` is not a number from 0 on.
        """
        if not isinstance(seconds, int | float) or not seconds >= 0:
            raise ConfigError(f"set_age({seconds!r}): write a number of seconds, 0 or more")
        now_ns = time.monotonic_ns()
        contact_ns = now_ns - int(min(seconds * 1e9, _OLDEST_NS)) if seconds else now_ns + FOREVER_NS
        self._publisher.control.beat(now_ns, contact_ns, synced=True)
        sources = [{"resource": name, "contact_ns": contact_ns} for name in self.tables._declared]
        self._publisher.control.store_status(msgspec.msgpack.encode({"sources": sources}))

    def close(self) -> None:
        """Remove the area."""
        self._publisher.close(remove=True)


@contextmanager
def routes(answers: Answers) -> Iterator[Routes]:
    """Make `shmroute.resolve` and `shmroute.get` give these answers until the block ends.

    Raises:
        ConfigError: an answer cannot be used.
    """
    given = Routes(_area())
    try:
        given.set(answers)
        with _default_area(given.area):
            yield given
    finally:
        given.close()


@contextmanager
def tables(objects: Mapping[str, Mapping[str, Any]]) -> Iterator[Tables]:
    """Make `shmroute.table` give these tables until the block ends: table name -> key -> value.

    `Tables.set` declares indexes. A test that needs routes too uses `routes` and its `tables`.

    Raises:
        ConfigError: a name or an object cannot be used.
    """
    with routes({}) as given:
        for name, values in objects.items():
            given.tables.set(name, values)
        yield given.tables


@contextmanager
def not_ready() -> Iterator[None]:
    """Make `shmroute.resolve` and `shmroute.get` raise `NotReady`, as before a watcher's first snapshot."""
    with _default_area(_area()):
        yield


class WatchedFolder:
    """A folder of manifests, followed by a real watcher."""

    def __init__(self, path: Path, area: str) -> None:
        self.path = path
        self.area = area
        self.reader = Reader(area)

    def write(self, name: str, text: str) -> int:
        """Write a manifest file, and wait until its changes, if any, are published. Returns the generation.

        Raises:
            NotReady: the watcher has not noticed the file within 30 s.
        """
        before = self.reader.generation
        temporary = self.path / f".{name}.new"
        temporary.write_text(text)
        temporary.replace(self.path / name)
        return self._settled(before)

    def remove(self, name: str) -> int:
        """Remove a manifest file, and wait like `write`. Returns the generation."""
        before = self.reader.generation
        (self.path / name).unlink()
        return self._settled(before)

    def _settled(self, before: int) -> int:
        done = time.monotonic()
        while self.reader.generation == before:
            if time.monotonic() - self.reader.age > done:
                return before  # the watcher has read the file, and nothing has changed
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
    """Run `shmroute watch --manifests PATH`, and make `resolve` and `get` answer from it until the block ends.

    Args:
        path: the folder.
        options: further options of `shmroute watch`, such as `["--metadata", "folder"]`.

    Raises:
        NotReady: the watcher has not published anything within 30 s.
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
        with _default_area(area):
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
def _default_area(area: str) -> Iterator[None]:
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


def _answer(model: object, given: object) -> Answer:
    if not _is_text(model):
        raise ConfigError(f"{model!r} is not a model's name: write a string that is not empty")
    answer = Answer(app=given) if isinstance(given, str) else given
    if not isinstance(answer, Answer):
        raise ConfigError(f"model {model!r}: give an app's name or an Answer, not {type(given).__name__}")
    if isinstance(answer.endpoints, str | Pod):
        raise ConfigError(f"model {model!r}: endpoints={answer.endpoints!r}: write a tuple, even of one")
    for field in ("app", "version", "app_version", "namespace"):
        if not _is_text(getattr(answer, field)):
            raise ConfigError(f"model {model!r}: {field}={getattr(answer, field)!r}: write a string that is not empty")
    if answer.metadata_version is not None and not _is_text(answer.metadata_version):
        raise ConfigError(f"model {model!r}: metadata_version={answer.metadata_version!r}: write a string, or None")
    if isinstance(answer.ambiguous_ports, str) or not all(map(_is_text, answer.ambiguous_ports)):
        raise ConfigError(f"model {model!r}: ambiguous_ports={answer.ambiguous_ports!r}: write a tuple of ports' names")
    return answer


def _is_text(value: object) -> bool:
    """Whether a name can be published: a string that is not empty and has neither NUL nor lone surrogates."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _table_rows(declared: Mapping[str, _Declared]) -> dict[RowKey, bytes]:
    """Return the rows of tables. The code of the watcher makes them."""
    definitions = {
        name: TableDefinition(
            resource="objects.v1",
            scope="Cluster",
            key=".key",
            value=".value",
            index={index: f".value{path}" for index, path in each.index.items()},
        )
        for name, each in declared.items()
    }
    kinds = watch_tables(definitions, several_namespaces=False)
    index = Index(kinds=kinds)
    for kind in kinds:
        objects = declared[kind.name].objects
        if objects is None:
            continue
        made = []
        for number, (key, value) in enumerate(objects.items()):
            manifest = {"metadata": {"name": f"object-{number}"}, "key": key, "value": value}
            try:
                body = msgspec.json.encode(manifest)
            except (TypeError, ValueError, OverflowError) as error:
                raise ConfigError(f"table {kind.name!r}: {key!r} cannot be written as JSON: {error}") from error
            parsed = kind.parse(body, default_namespace="")
            if isinstance(parsed, InvalidTableObject):
                raise ConfigError(f"table {kind.name!r}: {key!r} cannot be a row: {parsed.reason}")
            if parsed is not None:
                made.append(parsed)
        index.apply(Replaced(kind.name, tuple(made)))
    return dict(index.rows())


def _rows(answers: Mapping[str, Answer]) -> dict[RowKey, bytes]:
    """Return the rows of an area in which each model has an AppModel of its own."""
    rows: dict[RowKey, bytes] = {}
    apps: dict[str, list[AppRow]] = {}
    for model, answer in answers.items():
        route = RouteRow(model, answer.version, answer.app, answer.app_version, answer.namespace, model)
        rows[Kind.MODEL, model] = encode(route)
        service = f"{answer.namespace}/{model}"
        apps.setdefault(answer.app, []).append(
            AppRow(answer.app, answer.app_version, answer.namespace, model, service, ((model, answer.version),))
        )
        if answer.ambiguous_ports:
            ports = ", ".join(answer.ambiguous_ports)
            rows[Kind.ENDPOINTS, service] = encode(
                EndpointsRow(service, EndpointsState.AMBIGUOUS_PORT, detail=f"ports {ports}")
            )
        elif answer.endpoints is None:
            rows[Kind.ENDPOINTS, service] = encode(EndpointsRow(service, EndpointsState.UNKNOWN))
        else:
            endpoints = tuple(
                sorted((_endpoint(model, pod) for pod in answer.endpoints), key=lambda row: (row.host, row.port))
            )
            rows[Kind.ENDPOINTS, service] = encode(EndpointsRow(service, EndpointsState.KNOWN, endpoints))
        if answer.metadata is not None or answer.metadata_state is not None:
            rows[Kind.METADATA, service] = encode(_metadata(model, answer))
    for app, entries in apps.items():
        rows[Kind.APP, app] = encode(tuple(entries))
    return rows


def _metadata(model: str, answer: Answer) -> MetadataRow:
    states = {state.word: state for state in MetadataState}
    word = answer.metadata_state or "loaded"
    if word not in states:
        raise ConfigError(f"model {model!r}: metadata_state={word!r}: write one of {', '.join(states)}")
    value = answer.metadata
    if value is not None and not isinstance(value, bytes):
        try:
            value = msgspec.json.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ConfigError(f"model {model!r}: its metadata cannot be written as JSON: {error}") from error
    version = None if value is None else answer.metadata_version or answer.version
    return MetadataRow(answer.app, version, answer.version, states[word], time.time(), value)


def _endpoint(model: str, given: str | Pod) -> EndpointRow:
    pod = Pod(given) if isinstance(given, str) else given
    if not isinstance(pod, Pod):
        raise ConfigError(f"model {model!r}: {given!r} is not an endpoint: write host:port, or a Pod")
    if (
        not isinstance(pod.zone, str)
        or isinstance(pod.hints, str)
        or not all(isinstance(hint, str) for hint in pod.hints)
    ):
        raise ConfigError(
            f"model {model!r}: endpoint {pod.address!r}: write the zone as a string and the hints as a tuple of zones"
        )
    host, _, port = pod.address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or not port.isdecimal() or not 0 < int(port) < 1 << 16 or (":" in bare) != (host != bare):
        raise ConfigError(
            f"model {model!r}: endpoint {pod.address!r}: write host:port, such as 10.0.0.1:80 or [fd00::1]:80"
        )
    return EndpointRow(bare, int(port), pod.ready, pod.serving, pod.terminating, pod.zone, hints=tuple(pod.hints))


class PodServer:
    """An HTTP server on a loopback address that behaves as the test tells it; see `pod_server`."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        """Method and target of each request so far."""
        self._status = 200
        self._body = b"{}"
        self._mode = "answer"
        self._connections: set[socket.socket] = set()
        self._ended = threading.Event()
        self._server = self._listening(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._server.server_address[:2])
        """Address as ``host:port``, for the endpoints of an `Answer`."""

    def answer(self, body: Any = None, status: int = 200) -> None:
        """Answer each request from now on with this JSON and status, such as 503 for an overloaded pod."""
        self._body, self._status, self._mode = msgspec.json.encode({} if body is None else body), status, "answer"
        if self._server.socket.fileno() < 0:
            host, _, port = self.address.rpartition(":")
            self._server = self._listening((host, int(port)))

    def refuse(self) -> None:
        """Refuse connections from now on, as the address of a killed pod does."""
        self._server.shutdown()
        self._server.server_close()
        self._cut()

    def hang(self) -> None:
        """Accept requests from now on and never answer."""
        self.answer()
        self._mode = "hang"

    def break_off(self) -> None:
        """Accept requests from now on and close the connection instead of answering."""
        self.answer()
        self._mode = "break off"

    def close(self) -> None:
        """End the server and all hanging requests."""
        self._ended.set()
        self.refuse()

    def _listening(self, address: tuple[str, int]) -> http.server.ThreadingHTTPServer:
        pod = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                pod._connections.add(self.connection)

            def finish(self) -> None:
                pod._connections.discard(self.connection)
                super().finish()

            def handle(self) -> None:
                with suppress(OSError):
                    super().handle()

            def log_message(self, *_: object) -> None:
                pass

            def handle_expect_100(self) -> bool:
                return True

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self._answer
                raise AttributeError(name)

            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                pod.requests.append((self.command, self.path))
                if pod._mode == "hang":
                    pod._ended.wait()
                if pod._mode != "answer":
                    self.close_connection = True
                    return
                body = pod._body
                self.send_response(pod._status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        server = http.server.ThreadingHTTPServer(address, Handler)
        threading.Thread(target=server.serve_forever, args=(_STEP_SECONDS,), daemon=True).start()
        return server

    def _cut(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def pod_server(body: Any = None) -> Iterator[PodServer]:
    """Run a pod that answers with this JSON until the block ends.

        with pod_server() as one, routes({"m": Answer(app="a", endpoints=(one.address,))}):
            one.refuse()
            ...  # test how the code under test handles a pod that refuses connections

    The pod is a real server, so that any HTTP client can be tested against it.
    """
    made = PodServer()
    try:
        made.answer(body)
        yield made
    finally:
        made.close()
