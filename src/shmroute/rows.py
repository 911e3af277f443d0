"""The rows a watcher publishes and a worker reads: their kinds, keys and msgpack form.

A row is `(kind, key) -> bytes`. The index and the metadata loader write them, `shmroute.worker.reader` reads them;
shared memory carries them without knowing what they mean. Changing a struct here changes the format of the
area: raise `shmroute.shm.layout.FORMAT_VERSION` with it.

Pure, light (msgspec only): imported by every worker.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

__all__ = [
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
    "encode",
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


class InvalidRow(msgspec.Struct, frozen=True, array_like=True):
    """An object or a file that was set aside."""

    kind: str
    """"AppModel", "EndpointSlice", "File" or "Port"."""
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


_encoder = msgspec.msgpack.Encoder()

encode = _encoder.encode
"""Any of the structs above, or a tuple of them, to msgpack bytes."""
