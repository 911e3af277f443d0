"""`shmroute doctor`: checks everything that a watcher and its workers need here, and names what is wrong."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Final

import click

from shmroute.cli import options
from shmroute.cli.output import bytes_text, fitted, paint, printable
from shmroute.watcher.report import counted

Finding = tuple[str, str]
"""A state ("ok", "old" for a warning, "bad") and a sentence."""

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
    names = (namespace,) if isinstance(namespace, str) else tuple(namespace or ())
    checks: list[Callable[[], Iterator[Finding]]] = [_platform, _memory, lambda: _area(area)]
    followed = "" if manifests or kubeconfig or context else _followed_folder(area)
    if manifests or os.path.isdir(followed):  # noqa: PTH112 - Path("") is the working directory
        checks.append(lambda: _folder(manifests or followed, empty_is_fine=bool(tables)))
    elif followed:
        checks.append(
            lambda: iter([("ok", f"the watcher follows the folder {followed}, which is not to be seen here")])
        )
    else:
        checks.append(lambda: _cluster(kubeconfig, context, None if all_namespaces else names, selector))
    if tables:
        checks.append(lambda: _tables(tables))
        if not (manifests or followed):
            checks.append(lambda: _tables_of_cluster(tables, kubeconfig, context, None if all_namespaces else names))
    if redis:
        checks.append(lambda: _redis(redis))
    bad = False
    for check in checks:
        for state, sentence in check():
            bad = bad or state == "bad"
            word = _WORDS[state]
            line = fitted(f"{word.ljust(_INDENT)}{printable(sentence)}", _INDENT)
            click.echo(line.replace(word, paint(word, state), 1))
    if bad:
        raise SystemExit(1)


def _platform() -> Iterator[Finding]:
    import shmroute

    native = "native" if shmroute.__native__ else "plain Python"
    yield "ok", f"Python {platform.python_version()} on {sys.platform}, {native} look-up"
    if sys.platform != "linux":
        yield "old", "this is not Linux: look-ups and `watch` are meant to work, `run` and servers' hooks do not"
    if sys.byteorder != "little":
        yield "bad", "this machine is big-endian: the area's format is little-endian"


def _memory() -> Iterator[Finding]:
    from shmroute.errors import ConfigError
    from shmroute.shm.names import DIRECTORY
    from shmroute.shm.trust import trusted_users

    try:
        free = shutil.disk_usage(DIRECTORY).free
    except OSError as error:
        yield "bad", f"{DIRECTORY} cannot be used: {error.strerror}. Mount a tmpfs there, or set SHMROUTE_DIR"
        return
    size = f"{DIRECTORY} has {bytes_text(free)} free"
    yield ("ok", size) if free >= SMALL_BYTES else ("old", f"{size}: enough for small tables only (docs: tuning)")
    if not os.access(DIRECTORY, os.W_OK):
        yield "old", f"{DIRECTORY} is read-only for this process: it can be a worker, not a watcher"
    try:
        users = sorted(trusted_users())
    except ConfigError as error:
        yield "bad", str(error)
        return
    yield "ok", f"areas of these user ids are trusted: {', '.join(map(str, users))}"


def _area(area: str) -> Iterator[Finding]:
    from shmroute.errors import NotReady, ShmrouteError
    from shmroute.watcher.report import health, onlooker, report

    try:
        with onlooker(area) as reader:
            facts = report(reader)
    except NotReady:
        yield "old", f"area {area!r} does not exist yet: no watcher has started with this name"
        return
    except ShmrouteError as error:
        yield "bad", str(error)
        return
    state, sentence = health(facts)
    yield state, f"area {area!r}: {sentence}"


def _followed_folder(area: str) -> str:
    """Return the folder that the area's watcher follows; "" if it follows a cluster, or is not known."""
    from shmroute.errors import ShmrouteError
    from shmroute.watcher.report import onlooker, report

    try:
        with onlooker(area) as reader:
            facts = report(reader)
    except ShmrouteError:
        return ""
    source = facts["source"]["source"] if facts["source"] and facts["watcher"]["alive"] else ""
    return source if "://" not in source else ""


def _tables(path: str) -> Iterator[Finding]:
    from shmroute.errors import ConfigError
    from shmroute.watcher.tables_file import read_tables

    try:
        tables = read_tables(path, (), several_namespaces=False)
    except ConfigError as error:
        for line in str(error).splitlines():
            yield "bad", line
        return
    yield "ok", f"{path} declares {counted(len(tables), 'table')}"


def _folder(path: str, *, empty_is_fine: bool) -> Iterator[Finding]:
    from shmroute.errors import InvalidObject
    from shmroute.manifests import files
    from shmroute.resources.appmodel import find_problems
    from shmroute.resources.registry import APPMODELS

    try:
        documents = files.read([path])
    except InvalidObject as error:
        yield "bad", str(error)
        return
    found = [each for each in documents if each.kind == APPMODELS.kind]
    yield ("ok" if found or empty_is_fine else "old"), f"{path} holds {counted(len(found), APPMODELS.kind)}"
    for document in found:
        for problem in find_problems(document.manifest):
            yield "bad", f"{document.where}: {problem}"


def _cluster(
    kubeconfig: str | None, context: str | None, namespaces: tuple[str, ...] | None, selector: str | None
) -> Iterator[Finding]:
    from shmroute.errors import ShmrouteError
    from shmroute.kube.connection import Connection, path_of
    from shmroute.resources.registry import BUILT_IN

    try:
        connection = Connection(kubeconfig, context)
    except ShmrouteError as error:
        yield "bad", str(error)
        return
    yield "ok", f"cluster {connection.host}, namespace {connection.namespace} unless named otherwise"
    chosen = (None,) if namespaces is None else namespaces or (connection.namespace,)
    for kind in BUILT_IN:
        for namespace in chosen:
            scope = ("namespaces", namespace) if namespace else ()
            path = path_of(*kind.api_path, *scope, kind.plural)
            where = f"{kind.name} in {f'namespace {namespace}' if namespace else 'all namespaces'}"
            labels = selector if selector is not None and kind.labelled else kind.selector
            try:
                answer = connection.request("GET", path, {"limit": "1", "labelSelector": labels})
            except ShmrouteError as error:
                yield "bad", str(error)
                continue
            items = json.loads(answer.data).get("items") or []
            if items:
                yield "ok", f"{where}: may be listed, and there are some"
            else:
                yield "old", f"{where}: may be listed, but none matches {labels!r}: check label and namespace"


def _tables_of_cluster(
    path: str, kubeconfig: str | None, context: str | None, namespaces: tuple[str, ...] | None
) -> Iterator[Finding]:
    """Say of each table whether its resource is served and may be listed. A definition may be installed later."""
    from shmroute.errors import ShmrouteError
    from shmroute.kube.connection import Connection, path_of
    from shmroute.kube.discovery import find_served, missing_because
    from shmroute.watcher.tables_file import read_tables

    try:
        connection = Connection(kubeconfig, context)
        tables = read_tables(path, (), several_namespaces=namespaces is None or len(namespaces) > 1)
    except ShmrouteError:
        return  # the checks of the cluster and of the file have said so
    watched = (None,) if namespaces is None else namespaces or (connection.namespace,)
    for table in tables:
        served = find_served(connection, table.group, table.version, table.plural)
        if served is None or served.namespaced is None:
            because = missing_because(served, table.group, table.version, table.plural, namespaced=table.namespaced)
            yield "old", f"table {table.name} has to wait: {because}"
            continue
        everywhere = table.namespaces == ("*",) or not served.namespaced
        query = {"limit": "1", "labelSelector": table.selector, "fieldSelector": table.field_selector}
        for namespace in (None,) if everywhere else table.namespaces or watched:
            scope = ("namespaces", namespace) if namespace else ()
            try:
                connection.request("GET", path_of(*table.api_path, *scope, table.plural), query)
            except ShmrouteError as error:
                yield "bad", f"table {table.name}: {error}"
            else:
                where = f"{table.full_name} in namespace {namespace}" if namespace else table.full_name
                yield "ok", f"table {table.name}: {where} may be listed"


def _redis(url: str) -> Iterator[Finding]:
    from shmroute.errors import ShmrouteError
    from shmroute.metadata.redis_store import RedisStore

    try:
        store = RedisStore(url)
        store.read(["shmroute-doctor"], limit_bytes=1, batch_bytes=1)
    except ShmrouteError as error:
        yield "bad", str(error)
        return
    yield "ok", f"{store.name} answers"
