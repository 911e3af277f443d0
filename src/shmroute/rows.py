"""The rows a watcher publishes and a worker reads: their kinds, keys and msgpack form.

A row is `(kind, key) -> bytes`. The index and the metadata loader write them, `shmroute.worker.reader` reads them;
shared memory carries them without knowing what they mean. Changing a struct here changes the format of the
area: raise `shmroute.shm.layout.FORMAT_VERSION` with it.

Pure, light (msgspec only): imported by every worker.
"""

from __future__ import annotations

import enum
from typing import TypeAlias
from zlib import crc32

import msgspec

__all__ = [
    "FIRST_TABLE_NUMBER",
    "LAST_TABLE_NUMBER",
    "AppRow",
    "ConflictRow",
    "EndpointRow",
    "EndpointsRow",
    "EndpointsState",
    "InvalidRow",
    "Kind",
    "MetadataRow",
    "MetadataState",
    "RouteRow",
    "RowKey",
    "SettingsRow",
    "TableRow",
    "bucket_key",
    "bucket_of",
    "encode",
    "index_value",
]


class Kind(enum.IntEnum):
    """What a row is about. The key of each kind stands behind it."""

    MODEL = 1  # model name -> RouteRow of the winner, with those of other namespaces in `others`
    APP = 2  # app name -> tuple of AppRow, one for each AppModel of that app, the oldest first
    ENDPOINTS = 3  # "namespace/appmodel" -> EndpointsRow
    METADATA = 4  # "namespace/model" -> MetadataRow
    CONFLICT = 5  # "namespace/model" -> ConflictRow
    INVALID = 6  # "Kind namespace/name", or the file's path -> InvalidRow
    SETTINGS = 7  # "" -> SettingsRow
    TABLES = 8  # table name -> TableRow


FIRST_TABLE_NUMBER = 16
LAST_TABLE_NUMBER = 0xFFFF
"""Kinds of rows of declared tables: an even one for a table's rows, the next one for its indexes."""


RowKey: TypeAlias = tuple[int, str]
"""`(kind, key)`; keys hold no NUL character."""


class EndpointsState(enum.IntEnum):
    """Whether the endpoints of a Service are known. `word` names the state where there is no endpoint to pick."""

    UNKNOWN = 0  # no slice of the Service has been seen
    KNOWN = 1  # the slices have been merged; an empty tuple means: known to be empty
    AMBIGUOUS_PORT = 2  # several ports, none of them chosen by a rule

    @property
    def word(self) -> str:
        """The state in words."""
        return ("not known", "known empty", "ambiguous port")[self]


class RouteRow(msgspec.Struct, frozen=True, array_like=True):
    """Which AppModel serves a model. `shmroute.worker.routes.Route` is the worker's view of the same fields."""

    model: str
    version: str
    """The model's version."""
    app: str
    app_version: str
    namespace: str
    appmodel: str
    """`metadata.name` of the AppModel."""
    others: tuple[RouteRow, ...] = ()
    """The same model's rows in other namespaces, the oldest AppModel first."""


class AppRow(msgspec.Struct, frozen=True, array_like=True):
    """What one AppModel says of its app. `shmroute.worker.routes.App` is the worker's view of the same fields."""

    app: str
    version: str
    namespace: str
    appmodel: str
    """`metadata.name` of the AppModel."""
    service: str
    """`namespace/name` of the app's Service."""
    models: tuple[tuple[str, str], ...]
    """(name, version) of each model, in the AppModel's order."""
    created: str = ""
    """The AppModel's `creationTimestamp`, RFC 3339 in UTC; "" for one of a folder."""
    port: str = ""
    """Name or number of the port the AppModel asks for; "" where it leaves the choice."""
    first_seen: str = ""
    """When a watcher first saw an AppModel without `created`, RFC 3339 in UTC; else ""."""
    deleting: str = ""
    """The AppModel's `deletionTimestamp`, RFC 3339 in UTC; "" unless it is being deleted."""


class TableRow(msgspec.Struct, frozen=True, array_like=True):
    """A declared table: where its rows are, and whether they are complete."""

    number: int
    """Kind of its rows; its indexes have the next one."""
    resource: str
    """As declared: `plural.version.group`."""
    ready: bool
    """Whether its first complete list has been published."""
    rows: int
    indexes: tuple[str, ...] = ()
    conflicts: int = 0
    """Keys that several objects claim."""
    invalid: int = 0
    """Objects that cannot be rows."""


def index_value(index: str, value: object) -> str | None:
    """One entry of an index: its name and the value, tagged by type so that 1, True and "1" differ.

    Returns None for a value that cannot be indexed (null, a map, a list).
    """
    match value:
        case bool():
            return f"{index}:b{int(value)}"
        case str():
            return f"{index}:s{value}"
        case int():
            return f"{index}:n{value}"
        case float():
            return f"{index}:n{int(value) if value.is_integer() else value!r}"
    return None


def bucket_of(key: str, buckets: int) -> int:
    """In which of an index entry's buckets a row's key is (linear hashing). Watcher and worker agree on it.

    Python's own hash of a string differs from process to process.
    """
    number = crc32(key.encode(errors="surrogatepass"))
    level = 1 << (buckets.bit_length() - 1)
    bucket = number & (2 * level - 1)
    return bucket if bucket < buckets else number & (level - 1)


def bucket_key(entry: str, bucket: int) -> str:
    """The row of a bucket; bucket 0 is the row that also says how many there are."""
    return f"{bucket}:{entry}"


class EndpointRow(msgspec.Struct, frozen=True, array_like=True):
    """One address of an app, merged over all slices of its Service."""

    host: str
    port: int
    ready: bool
    serving: bool
    terminating: bool
    zone: str = ""
    node: str = ""
    pod: str = ""
    hints: tuple[str, ...] = ()
    """Zones this endpoint is meant for; empty: for all."""


class EndpointsRow(msgspec.Struct, frozen=True, array_like=True):
    """The endpoints of one AppModel's app, sorted by (host, port)."""

    service: str
    state: EndpointsState
    endpoints: tuple[EndpointRow, ...] = ()
    detail: str = ""
    """For AMBIGUOUS_PORT: the ports there are."""


class MetadataState(enum.IntEnum):
    """Why a metadata row holds the value it holds. `word` is `Route.metadata_state`."""

    LOADED = 0  # the value was read for the version asked for
    PENDING = 1  # not read yet, or Redis is away: `value` is the last one, of `version`, or None
    MISSING = 2  # the key is not there; asked for again with back-off
    OUTDATED = 3  # the value says another version of itself than the one wanted; asked for again
    TOO_LARGE = 4  # over the limit; the value is not kept
    WRONG_TYPE = 5  # the key holds no string

    @property
    def word(self) -> str:
        """The state in lower case, with "-" between words."""
        return self.name.lower().replace("_", "-")


class MetadataRow(msgspec.Struct, frozen=True, array_like=True):
    """The metadata value of one model and how it stands."""

    app: str
    """The app it was read for; a value of another app than the route's is not the route's."""
    version: str | None
    """The model version `value` was read for; None where there is no value."""
    wanted: str
    """The model version that is asked for."""
    state: MetadataState
    since: float
    """Unix time in seconds at which `state` was entered."""
    value: bytes | None = None
    reason: str = ""


class ConflictRow(msgspec.Struct, frozen=True, array_like=True):
    """Several AppModels of one namespace claim one model."""

    model: str
    namespace: str
    winner: str
    """`metadata.name` of the AppModel that is served."""
    losers: tuple[str, ...]
    """Names of the others, in the order in which they would take over; at most the first 100 of them."""
    loser_count: int = 0
    """All others."""
    table: str = ""
    """The declared table, whose objects claim one key; `model` is that key then. "" for models."""


class InvalidRow(msgspec.Struct, frozen=True, array_like=True):
    """An object or a file that was set aside."""

    kind: str
    """"AppModel", "EndpointSlice", "Endpoints", "Port", "App", "Namespace", "File", or a declared table's name."""
    namespace: str
    name: str
    reason: str
    last_good: bool
    """Whether its last valid state is still served."""


class SettingsRow(msgspec.Struct, frozen=True, array_like=True):
    """What the watcher was asked to watch."""

    namespace: str
    """"" means all namespaces."""
    selector: str
    source: str
    """In words: the API server's address or the folder."""
    steady_seconds: float = 0.0
    """Largest age of the routes while all is well; 0 if that is not known."""

    def __str__(self) -> str:
        """`https://host:6443 (namespace x, selector iidp=iidp)`."""
        namespace = f"namespace {self.namespace}" if self.namespace else "all namespaces"
        selector = f"selector {self.selector}" if self.selector else "no selector"
        return f"{self.source} ({namespace}, {selector})"


_encoder = msgspec.msgpack.Encoder()

encode = _encoder.encode
"""Any of the structs above, or a tuple of them, to msgpack bytes."""
