"""Builds a watcher from its options: sources, metadata store, area. Called by the command line and by tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from shmroute.errors import ConfigError
from shmroute.metadata.loader import MetadataLimits, MetadataLoader
from shmroute.metadata.store import Store
from shmroute.metadata.template import KeyTemplate
from shmroute.resources.appmodel_rules import MAX_PORT, is_port
from shmroute.resources.registry import APPMODELS, BUILT_IN, ENDPOINTSLICES, WatchedKind
from shmroute.resources.table import TableKind
from shmroute.rows import SettingsRow
from shmroute.sources.base import Source
from shmroute.tables import EndpointRules, Handler, Room, TableHandler
from shmroute.watcher.checkpoint import Checkpoint, Identity
from shmroute.watcher.declared_tables import secret_kinds
from shmroute.watcher.handlers import check_handler, load_handlers
from shmroute.watcher.loop import WatcherLoop
from shmroute.watcher.metadata_feed import MetadataFeed
from shmroute.watcher.options import WatchOptions, check_namespaces, check_probe_seconds
from shmroute.watcher.room import area_room, check_share
from shmroute.watcher.tables_file import read_valid_tables
from shmroute.watcher.tables_follower import TablesFollower

_NOT_EMPTY: Final = ("manifests", "kubeconfig", "context", "tables", "redis", "metadata", "checkpoint", "group")
"""Options that must not be "": most often an unset shell variable, which would silently mean the default."""


def build(
    options: WatchOptions,
    handlers: Iterable[Handler] = (),
    table_handlers: Mapping[str, TableHandler] | None = None,
) -> WatcherLoop:
    """Return the watcher that `options` describe, not started yet. The handlers are added to those of the options.

    Raises:
        ConfigError: options contradict each other, the cluster configuration cannot be used, or an object is not a
            handler.
    """
    for name in _NOT_EMPTY:
        if getattr(options, name) == "":
            raise ConfigError(f"--{name} is empty: give it a value, or leave it out")
    if options.port and not is_port(options.port):
        raise ConfigError(f"--port {options.port!r}: write a port's name, or a number from 1 to {MAX_PORT}")
    if options.namespaces and options.all_namespaces:
        raise ConfigError("-n and -A exclude each other")
    check_namespaces(options.namespaces)
    if options.manifests and (options.kubeconfig or options.context):
        raise ConfigError("--manifests watches a folder: it goes without --kubeconfig and --context")
    if options.manifests and len(options.namespaces) > 1:
        raise ConfigError("--manifests takes one -n, or -A; objects without a namespace belong to that of -n")
    several = _has_several_namespaces(options)
    tables, problem = read_valid_tables(options.tables, options.table, several_namespaces=several)
    called = [("", check_handler(handler, repr(handler))) for handler in handlers]
    called += [(table, check_handler(each, repr(each))) for table, each in (table_handlers or {}).items()]
    called += load_handlers(options.handlers)
    for table, handler in called:
        if table and table not in (kind.name for kind in tables) and not problem:
            raise ConfigError(f"handler {handler!r}: there is no table {table!r}: declare it by --tables or --table")
    if options.manifests:
        sources, settings, open_table = *_folder(options, tables), None
    else:
        sources, settings, open_table = _cluster(options)
    room = area_room(
        check_share(options.share),
        several_namespaces=not options.manifests and (options.all_namespaces or len(set(options.namespaces)) > 1),
        metadata=bool(options.redis or options.metadata),
        tables=len(tables) or bool(problem),
    )
    return WatcherLoop(
        options.area,
        sources,
        tables=() if options.manifests else tables,
        open_table=open_table,
        tables_file=TablesFollower(options.tables, options.table, problem, several) if options.tables else None,
        settings=settings,
        room=room,
        rules=EndpointRules(options.port, options.ip_family, bool(options.manifests) or options.special_addresses),
        metadata=_metadata(options, room),
        checkpoint=_checkpoint(options, settings, tables),
        handlers=[handler for table, handler in called if not table],
        table_handlers=[(table, handler) for table, handler in called if table],
        group=int(options.group) if options.group and options.group.isdigit() else options.group,
        refuse_other=options.refuse_other,
    )


def _cluster(options: WatchOptions) -> tuple[list[Source], SettingsRow, Callable[[TableKind], Source]]:
    from shmroute.kube.connection import Connection
    from shmroute.sources.kubernetes.table_source import TableSource
    from shmroute.sources.kubernetes.timing import Timing

    connection = Connection(options.kubeconfig, options.context)
    timing = Timing(probe_seconds=check_probe_seconds(options.probe_seconds))
    namespaces = check_namespaces(options.namespaces or (connection.namespace,))

    watched = None if options.all_namespaces else namespaces
    sources: list[Source] = [
        TableSource(
            connection,
            kind,
            namespaces=watched,
            selector=_selector(kind, options),
            scope_known=True,
            resync_seconds=options.resync_seconds,
            timing=timing,
        )
        for kind in _kinds(options)
    ]

    def open_table(table: TableKind) -> Source:
        return TableSource(
            connection,
            table,
            namespaces=_namespaces_of(table, watched),
            scope_known=bool(table.definition.scope and table.kind),
            resync_seconds=options.resync_seconds,
            timing=timing,
        )

    shown = "" if options.all_namespaces else ",".join(namespaces)
    steady = timing.frozen_within if options.probe_seconds else 0.0
    return sources, SettingsRow(shown, _selector(APPMODELS, options), connection.host, steady), open_table


def _folder(options: WatchOptions, tables: tuple[TableKind, ...]) -> tuple[list[Source], SettingsRow]:
    from shmroute.sources.folder.source import FolderSource

    assert options.manifests is not None  # noqa: S101 - the caller has checked it
    namespace = options.namespaces[0] if options.namespaces else None
    source = FolderSource(
        options.manifests,
        namespace=namespace,
        selector=options.selector or "",
        kinds=(*_kinds(options), *tables),
        resync_seconds=options.resync_seconds,
    )
    return [source], SettingsRow(namespace or "", options.selector or "", str(source.path))


def _metadata(options: WatchOptions, room: Room) -> MetadataFeed | None:
    if options.redis and options.metadata:
        raise ConfigError("--redis and --metadata exclude each other")
    store: Store
    if options.redis:
        from shmroute.metadata.redis_store import RedisStore

        store = RedisStore(options.redis)
    elif options.metadata:
        from shmroute.metadata.folder_store import FolderStore

        store = FolderStore(options.metadata)
    else:
        return None
    limits = MetadataLimits(value_bytes=options.metadata_limit)
    return MetadataFeed(MetadataLoader(store, limits=limits), KeyTemplate(options.metadata_key), room)


def _checkpoint(options: WatchOptions, settings: SettingsRow, tables: tuple[TableKind, ...]) -> Checkpoint | None:
    if not options.checkpoint:
        return None
    return Checkpoint(options.checkpoint, Identity(options.area, settings), secret_kinds(tables))


def _kinds(options: WatchOptions) -> tuple[WatchedKind, ...]:
    return BUILT_IN if options.endpoints else tuple(kind for kind in BUILT_IN if kind is not ENDPOINTSLICES)


def _has_several_namespaces(options: WatchOptions) -> bool:
    return options.all_namespaces or len(options.namespaces) > 1 or bool(options.manifests and not options.namespaces)


def _namespaces_of(table: TableKind, watched: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the namespaces of a table's objects, given those of the watcher; None for all."""
    if not table.namespaces:
        return watched
    return None if table.namespaces == ("*",) else table.namespaces


def _selector(kind: WatchedKind, options: WatchOptions) -> str:
    """Return the label selector for a kind in a cluster."""
    chosen = {APPMODELS.name: options.selector, ENDPOINTSLICES.name: options.slice_selector}.get(kind.name)
    return kind.selector if chosen is None else chosen
