"""The rows that a watcher publishes and a worker reads: their kinds, keys and msgpack form.

A row is `(kind, key) -> bytes`. The index and the metadata loader write rows, `shmroute.worker.reader` reads them;
shared memory stores them without knowing what they mean. A changed struct here changes the format of the area: raise
`shmroute.shm.layout.FORMAT_VERSION` with it.

`shmroute.kinds` is the part that a worker needs for each look-up; its names are here too. Pure.
"""

from __future__ import annotations

import enum
from zlib import crc32

import msgspec

from shmroute.kinds import (
    BUILT_IN_TABLES,
    FIRST_TABLE_NUMBER,
    LAST_TABLE_NUMBER,
    TABLE_KINDS,
    Kind,
    RowKey,
    table_kinds,
)

__all__ = [
    "BUILT_IN_TABLES",
    "FIRST_TABLE_NUMBER",
    "LAST_TABLE_NUMBER",
    "TABLE_KINDS",
    "App",
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
    "table_kinds",
]


class EndpointsState(enum.IntEnum):
    """Whether the endpoints of a Service are known. `word` explains why there is no endpoint to pick."""

    UNKNOWN = 0  # no slice of the Service has been seen
    KNOWN = 1  # the slices have been merged; an empty tuple means that there are no endpoints
    AMBIGUOUS_PORT = 2  # there are several ports, and no rule chooses one

    @property
    def word(self) -> str:
        """The state in words, for a Service without endpoints."""
        return ("not known", "known empty", "ambiguous port")[self]


class RouteRow(msgspec.Struct, frozen=True, array_like=True):
    """The AppModel that serves a model. `shmroute.worker.routes.Route` is the worker's view of the same fields."""

    model: str
    version: str
    """The model's version."""
    app: str
    app_version: str
    namespace: str
    appmodel: str
    """`metadata.name` of the AppModel."""
    others: tuple[RouteRow, ...] = ()
    """Rows of the same model in other namespaces, the oldest AppModel first."""


class App(msgspec.Struct, frozen=True, array_like=True):
    """An app, as one AppModel describes it. The wire form is an array of the fields in this order."""

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
    """The AppModel's `creationTimestamp`, RFC 3339 in UTC; "" if the AppModel comes from a folder."""
    port: str = ""
    """Name or number of the port that the AppModel asks for; "" if it names none."""
    first_seen: str = ""
    """Time at which a watcher first saw an AppModel without `created`, RFC 3339 in UTC; else ""."""
    deleting: str = ""
    """The AppModel's `deletionTimestamp`; "" unless it is being deleted. Until it is gone, its models are served."""


class TableRow(msgspec.Struct, frozen=True, array_like=True):
    """A declared table: the kind of its rows, and whether they are complete."""

    number: int
    """Kind of the table's rows; `table_kinds` returns all its kinds."""
    resource: str
    """Resource as declared: `plural.version.group`."""
    ready: bool
    """Whether the table's first complete list has been published."""
    rows: int
    indexes: tuple[str, ...] = ()
    conflicts: int = 0
    """Number of keys that several objects claim."""
    invalid: int = 0
    """Number of objects that cannot be rows."""


_FLOAT_BITS = 1024
"""Length of the largest integer that a float can equal, in bits. No JSON number of a row is larger."""


def index_value(index: str, value: object) -> str | None:
    """Return the entry of an index for a value: name and value, tagged by type so that 1, True and "1" differ.

    Returns None for a value that cannot be indexed (null, a map, a list).
    """
    match value:
        case bool():
            return f"{index}:b{int(value)}"
        case str():
            return f"{index}:s{value}"
        case int():
            return f"{index}:n{value}" if value.bit_length() <= _FLOAT_BITS else f"{index}:n"  # no row has that entry
        case float():
            return f"{index}:n{int(value) if value.is_integer() else value!r}"
    return None


def bucket_of(key: str, buckets: int) -> int:
    """Return the number of the bucket of an index entry that holds a row's key (linear hashing).

    Watcher and worker must agree; Python's own hash of a string differs from process to process.
    """
    number = crc32(key.encode(errors="surrogatepass"))
    level = 1 << (buckets.bit_length() - 1)
    bucket = number & (2 * level - 1)
    return bucket if bucket < buckets else number & (level - 1)


def bucket_key(entry: str, bucket: int) -> str:
    """Return the key of a bucket's row. The row of bucket 0 also holds the number of buckets."""
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
    """Zones that this endpoint is meant for; empty: all zones."""


class EndpointsRow(msgspec.Struct, frozen=True, array_like=True):
    """The endpoints of one AppModel's app, sorted by (host, port)."""

    service: str
    state: EndpointsState
    endpoints: tuple[EndpointRow, ...] = ()
    detail: str = ""
    """For AMBIGUOUS_PORT: the ports to choose from."""


class MetadataState(enum.IntEnum):
    """State of a model's metadata, which explains the row's `value`. `word` is `Route.metadata_state`."""

    LOADED = 0  # the value was read for the wanted version
    PENDING = 1  # not read yet, or Redis is unavailable: `value` is the last one, of `version`, or None
    MISSING = 2  # the key does not exist; read again with back-off
    OUTDATED = 3  # the value names another version than the wanted one; read again
    TOO_LARGE = 4  # over the limit; the value is dropped
    WRONG_TYPE = 5  # the key does not hold a string

    @property
    def word(self) -> str:
        """The state in lower case, with "-" between words."""
        return self.name.lower().replace("_", "-")


class MetadataRow(msgspec.Struct, frozen=True, array_like=True):
    """The metadata value of one model, and its state."""

    app: str
    """App that `value` was read for. A route of another app must not use the value."""
    version: str | None
    """Model version that `value` was read for; None if there is no value."""
    wanted: str
    """Model version to read the value for."""
    state: MetadataState
    since: float
    """Unix time at which `state` began, in seconds."""
    value: bytes | None = None
    reason: str = ""


class ConflictRow(msgspec.Struct, frozen=True, array_like=True):
    """Several AppModels of one namespace claim one model."""

    model: str
    namespace: str
    winner: str
    """`metadata.name` of the AppModel that is served."""
    losers: tuple[str, ...]
    """Names of the other AppModels, in the order in which they would take over; at most the first 100."""
    loser_count: int = 0
    """Number of all other AppModels."""
    table: str = ""
    """Name of the declared table whose objects claim one key, which is then in `model`; "" for models."""


class InvalidRow(msgspec.Struct, frozen=True, array_like=True):
    """An object or a file that was set aside."""

    kind: str
    """"AppModel", "EndpointSlice", "Endpoints", "Port", "App", "Namespace", "File", or a declared table's name."""
    namespace: str
    name: str
    reason: str
    last_good: bool
    """Whether the last valid state of the object is still served."""


class SettingsRow(msgspec.Struct, frozen=True, array_like=True):
    """The source, namespaces and selector that the watcher was started with."""

    namespace: str
    """Namespace that is watched; "" means all namespaces."""
    selector: str
    source: str
    """Address of the API server, or path of the folder."""
    steady_seconds: float = 0.0
    """Largest age of the routes in normal operation, in seconds; 0 if unknown."""

    def __str__(self) -> str:
        """Return, for example, `https://host:6443 (namespace x, selector iidp=iidp)`."""
        namespace = f"namespace {self.namespace}" if self.namespace else "all namespaces"
        selector = f"selector {self.selector}" if self.selector else "no selector"
        return f"{self.source} ({namespace}, {selector})"


_encoder = msgspec.msgpack.Encoder()

encode = _encoder.encode
"""Encodes one of the structs above, or a tuple of them, as msgpack."""
