"""`shmroute doctor`: checks everything that a watcher and its workers need here, and names what is wrong."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import click

from shmroute.cli import options
from shmroute.cli.output import bytes_text, fitted, paint, printable
from shmroute.errors import NotReady, ShmrouteError
from shmroute.manifests import files
from shmroute.resources.appmodel import find_problems
from shmroute.resources.registry import APPMODELS, BUILT_IN, WatchedKind
from shmroute.shm.names import DIRECTORY
from shmroute.shm.trust import trusted_users
from shmroute.watcher.report import counted, health, onlooker, report

if TYPE_CHECKING:
    from shmroute.kube.connection import Connection

Finding: TypeAlias = tuple[str, str]
"""A state ("ok", "old" for a warning, "bad") and a sentence."""

T = TypeVar("T")
Findings: TypeAlias = Generator[Finding, None, T]
"""What a check yields; T is what it returns."""

Namespaces: TypeAlias = tuple[str, ...] | None
"""The namespaces that the watcher watches; none given means that of the cluster's context, None means all."""

_WORDS: Final = {"ok": "ok", "old": "warning", "bad": "problem"}
_INDENT: Final = len("warning ")

SMALL_BYTES: Final = 64 * 1024 * 1024
"""Bytes of free shared memory below which there is a warning: the default /dev/shm of a container runtime."""


@click.command()
@options.area
@options.namespaces
@options.cluster
@options.option("--manifests", help="The folder that the watcher follows, if not a cluster.")
@options.option("-l", "--selector", help="Label selector of the AppModels.")
@options.tables
@options.redis
def command(
    area: str,
    namespace: str | None,
    all_namespaces: bool,
    kubeconfig: str | None,
    context: str | None,
    manifests: str | None,
    selector: str | None,
    tables: str | None,
    redis: str | None,
) -> None:
    """Check the platform, shared memory, the area, the cluster or folder, the tables file, and Redis.

    Give those of its options that the watcher has. A folder that the area's watcher follows is found without. Prints
    a line for each finding and ends with 1 if there is a problem. Changes nothing.
    """
    watched = None if all_namespaces else (namespace,) if namespace else ()
    bad = False
    for state, sentence in _findings(area, watched, kubeconfig, context, manifests, selector, tables, redis):
        bad = bad or state == "bad"
        word = _WORDS[state]
        line = fitted(f"{word.ljust(_INDENT)}{printable(sentence)}", _INDENT)
        click.echo(line.replace(word, paint(word, state), 1))
    if bad:
        raise SystemExit(1)


def _findings(
    area: str,
    watched: Namespaces,
    kubeconfig: str | None,
    context: str | None,
    manifests: str | None,
    selector: str | None,
    tables: str | None,
    redis: str | None,
) -> Iterator[Finding]:
    """Yield the findings of all checks that the options ask for."""
    yield from _platform()
    yield from _checked(_memory())
    source = (yield from _checked(_area(area))) or ""
    followed = manifests or ("" if kubeconfig or context or "://" in source else source)
    connection = None
    if manifests or os.path.isdir(followed):  # noqa: PTH112 - Path("") is the working directory
        yield from _checked(_folder(followed, empty_is_fine=bool(tables)))
    elif followed:
        yield "ok", f"the watcher follows the folder {followed}, which is not to be seen here"
    else:
        connection = yield from _checked(_cluster(kubeconfig, context, watched, selector))
    if tables:
        yield from _checked(_tables(tables, connection, watched))
    if redis:
        yield from _checked(_redis(redis))


def _checked(check: Findings[T]) -> Findings[T | None]:
    """Make the error that ends a check a finding, one for each of its lines. Returns what the check returns."""
    try:
        return (yield from check)
    except ShmrouteError as error:
        for line in str(error).splitlines():
            yield "bad", line
        return None


def _platform() -> Iterator[Finding]:
    import shmroute

    native = "native" if shmroute.__native__ else "plain Python"
    yield "ok", f"Python {platform.python_version()} on {sys.platform}, {native} look-up"
    if sys.platform != "linux":
        yield "old", "this is not Linux: look-ups and `watch` are meant to work, `run` and servers' hooks do not"
    if sys.byteorder != "little":
        yield "bad", "this machine is big-endian: the area's format is little-endian"


def _memory() -> Findings[None]:
    try:
        free = shutil.disk_usage(DIRECTORY).free
    except OSError as error:
        yield "bad", f"{DIRECTORY} cannot be used: {error.strerror}. Mount a tmpfs there, or set SHMROUTE_DIR"
        return
    size = f"{DIRECTORY} has {bytes_text(free)} free"
    yield ("ok", size) if free >= SMALL_BYTES else ("old", f"{size}: enough for small tables only (docs: tuning)")
    if not os.access(DIRECTORY, os.W_OK):
        yield "old", f"{DIRECTORY} is read-only for this process: it can be a worker, not a watcher"
    yield "ok", f"areas of these user ids are trusted: {', '.join(map(str, sorted(trusted_users())))}"


def _area(area: str) -> Findings[str]:
    """Check the area. Returns where its live watcher reads from: a folder or a URL; "" if that is not known."""
    try:
        with onlooker(area) as reader:
            facts = report(reader)
    except NotReady:
        yield "old", f"area {area!r} does not exist yet: no watcher has started with this name"
        return ""
    state, sentence = health(facts)
    yield state, f"area {area!r}: {sentence}"
    return str(facts["source"]["source"]) if facts["source"] and facts["watcher"]["alive"] else ""


def _folder(path: str, *, empty_is_fine: bool) -> Findings[None]:
    found = [each for each in files.read([path]) if each.kind == APPMODELS.kind]
    yield ("ok" if found or empty_is_fine else "old"), f"{path} holds {counted(len(found), APPMODELS.kind)}"
    for document in found:
        for problem in find_problems(document.manifest):
            yield "bad", f"{document.where}: {problem}"


def _cluster(
    kubeconfig: str | None, context: str | None, watched: Namespaces, selector: str | None
) -> Findings[Connection]:
    """Check the cluster and the rights to list AppModels and EndpointSlices. Returns the connection to it."""
    from shmroute.kube.connection import Connection

    connection = Connection(kubeconfig, context)
    yield "ok", f"cluster {connection.host}, namespace {connection.namespace} unless named otherwise"
    for kind in BUILT_IN:
        labels = selector if selector is not None and kind.labelled else kind.selector
        for namespace in _places(watched, connection):
            yield from _checked(_kind(connection, kind, namespace, labels))
    return connection


def _kind(connection: Connection, kind: WatchedKind, namespace: str | None, labels: str) -> Findings[None]:
    where = f"{kind.name} in {f'namespace {namespace}' if namespace else 'all namespaces'}"
    if _first(connection, kind, namespace, labels):
        yield "ok", f"{where}: may be listed, and there are some"
    else:
        yield "old", f"{where}: may be listed, but none matches {labels!r}: check label and namespace"


def _places(watched: Namespaces, connection: Connection) -> tuple[str | None, ...]:
    """Return the namespaces to list, None for all at once."""
    return (None,) if watched is None else watched or (connection.namespace,)


def _first(connection: Connection, kind: WatchedKind, namespace: str | None, labels: str) -> list[Any]:
    """Return at most one object of a kind. Raises `ApiError`."""
    from shmroute.kube.connection import path_of

    path = path_of(*kind.api_path, *(("namespaces", namespace) if namespace else ()), kind.plural)
    query = {"limit": "1", "labelSelector": labels, "fieldSelector": kind.field_selector}
    items: list[Any] = json.loads(connection.request("GET", path, query).data).get("items") or []
    return items


def _tables(path: str, connection: Connection | None, watched: Namespaces) -> Findings[None]:
    """Check the tables file, and in a cluster whether each table's resource is served and may be listed.

    That a resource is not served is a warning only: its definition may be installed later.
    """
    from shmroute.kube.discovery import find_served, missing_because
    from shmroute.watcher.tables_file import read_tables

    tables = read_tables(path, (), several_namespaces=watched is None or len(watched) > 1)
    yield "ok", f"{path} declares {counted(len(tables), 'table')}"
    if connection is None:
        return
    for table in tables:
        served = find_served(connection, table.group, table.version, table.plural)
        if served is None or served.namespaced is None:
            because = missing_because(served, table.group, table.version, table.plural, namespaced=table.namespaced)
            yield "old", f"table {table.name} has to wait: {because}"
            continue
        everywhere = table.namespaces == ("*",) or not served.namespaced
        for namespace in (None,) if everywhere else table.namespaces or _places(watched, connection):
            try:
                _first(connection, table, namespace, table.selector)
            except ShmrouteError as error:
                yield "bad", f"table {table.name}: {error}"
            else:
                where = f"{table.full_name} in namespace {namespace}" if namespace else table.full_name
                yield "ok", f"table {table.name}: {where} may be listed"


def _redis(url: str) -> Findings[None]:
    from shmroute.metadata.redis_store import RedisStore

    store = RedisStore(url)
    store.read(["shmroute-doctor"], limit_bytes=1, batch_bytes=1)
    yield "ok", f"{store.name} answers"
