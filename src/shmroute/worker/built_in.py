"""The built-in tables `models`, `apps` and `endpoints`: read-only mappings over the rows that `resolve` reads.

| table | key | value |
|---|---|---|
| `models` | a model's name | its `Route`, the same one as `resolve` returns |
| `apps` | an app's name | its `App`, as `Reader.app` returns it |
| `endpoints` | `namespace/appmodel` | the app's addresses, as `Route.endpoints` has them |

Never imports the watcher.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from shmroute.errors import ModelNotFound, NotReady, SnapshotExpired
from shmroute.rows import App, TableRow
from shmroute.worker.endpoints import Endpoint, decode_row, usable_endpoints
from shmroute.worker.routes import Route
from shmroute.worker.table_view import ready_row, table_row
from shmroute.worker.tables import ATTEMPTS, Table

if TYPE_CHECKING:
    from shmroute.worker.position import Position

T = TypeVar("T")

decode_apps = msgspec.msgpack.Decoder(tuple[App, ...]).decode


def decode_app(row: bytes) -> App:
    """Return the oldest AppModel's entry in an APP row."""
    return decode_apps(row)[0]


def decode_endpoints(row: bytes) -> tuple[Endpoint, ...]:
    """Return the addresses of an ENDPOINTS row that `Route.endpoints` has."""
    return usable_endpoints(decode_row(row))


_TYPES: Final[dict[str, tuple[Any, str]]] = {
    "models": (Route, "Route"),
    "apps": (App, "App"),
    "endpoints": (tuple[Endpoint, ...], "tuple[Endpoint, ...]"),
}
"""Name of a table -> the type of its values, and that type in words."""


def check_table(name: str, type: Any) -> None:  # noqa: A002 - as msgspec calls it
    """Check the arguments of `table`.

    Raises:
        TypeError: `name` is not a str, or is a built-in table's and `type` is another than that of its values.
    """
    if not isinstance(name, str):
        raise TypeError(f"a table's name is a str, not {name.__class__.__name__}")
    own, words = _TYPES.get(name, (type, ""))
    if type not in (Any, own):
        raise TypeError(f"table {name!r} is built in, and its values are {words}: name that type, or none")


class BuiltInTable(Table[T]):
    """A table whose rows exist without a declaration.

    `age` is that of `Reader.age`: these rows are what it measures.
    """

    def _table(self) -> TableRow:
        position = self._position
        for _ in range(ATTEMPTS):
            try:
                return ready_row(self.name, position.area, table_row(position, position.newest(), self.name))
            except SnapshotExpired:  # the writer has built two new bases since `newest`
                self._refuse_if_stuck()
        raise NotReady(position.area)

    def _value(self, key: str, row: bytes) -> T:  # noqa: ARG002 - the type is ours: a row that does not fit is damaged
        return self._position.decoded(self._decode, row)

    @property
    def age(self) -> float:
        """Seconds since the routes were last known to be in step with their source; infinite before the first time."""
        return self._position.age


class Models(BuiltInTable[Route]):
    """The table `models`. Look-ups are those of `resolve`, so that a worker decodes and keeps each route once."""

    def __init__(self, position: Position, decode: Callable[[bytes], Route], resolve: Callable[[str], Route]) -> None:
        super().__init__(position, "models", decode)
        self._resolve = resolve

    def __getitem__(self, key: str) -> Route:
        try:
            return self._resolve(key)
        except (ModelNotFound, TypeError):
            hash(key)  # raises TypeError for an unhashable key, as a dict does
            raise KeyError(key) from None
