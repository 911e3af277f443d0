"""The look-up of each request: compare the generation word, look into a dict, else find the row in the segment.

There are two implementations, called twins. The native twin (`shmroute._native`, in C) also finds the row in the
segment and decodes it; the plain twin here leaves that to `_look_up`. Both are base classes: `RouteLookup` of `Reader`,
`TableLookup` of `Table`. A twin calls the subclass's method `_look_up` for all that it cannot answer by itself: the
first look-up, the first one after a new generation, options, and errors.

A twin owns the cache of its table's decoded rows, and knows the generation that they belong to. When the reader moves
to another generation, `shmroute.worker.position` calls `_disable`, `_drop` and `_enable`.

**An outdated row is never cached.** The native twin reads without the reader's lock, so one thread may have just read a
row when another moves to the next generation and drops the changed rows. Each move therefore begins with `_disable` and
ends with `_enable`, and a row that was read before a move is not put into the cache after it.
"""

# ruff: noqa: ARG002 - the twins take the same arguments, and the plain one needs fewer
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from shmroute.native import native
from shmroute.shm.layout import FORMAT_VERSION, GENERATION_AT, WORD_BYTES

if TYPE_CHECKING:
    from shmroute.worker.routes import Route

NEVER: Final = memoryview(b"\0\0\0\0\0\0\xf8\x7f").cast("d", shape=())
"""The generation word of a reader that is not attached: a NaN, which equals nothing, not even itself."""


class Lookup:
    """The cache of one table's decoded rows, and the generation that they belong to.

    Args:
        kind: the table's number in the segment.
        decode: makes a value from a row's bytes.
        damage: the exception that `decode` raises for bytes that it cannot decode.
        limit: maximum number of decoded rows.
        make: makes a value from a row that is an array of `strings` strings and an empty array, faster than `decode`.
        strings: see `make`.
        also: a kind whose keys end with "/" and a key of this table; a changed row drops that key too. 0: none.
    """

    def __init__(
        self,
        kind: int,
        decode: Callable[[bytes], Any],
        damage: type[Exception],
        limit: int,
        make: Callable[..., Any] | None = None,
        strings: int = 0,
        also: int = 0,
    ) -> None:
        self._cache: dict[str, Any] = {}
        self._word: memoryview[float] = NEVER
        self._seen = 0.0

    def _advance(self, absent: dict[str, None]) -> tuple[int, int, list[tuple[int, str]]] | None:
        """Go to the newest generation along the log, and drop the rows that changed; their keys leave `absent` too.

        Returns:
            The generation, where its log ends, and `(kind, key)` of the changed rows of other tables. None where it has
            done nothing, and the caller has to `_disable`, `_drop` and `_enable`: always in the plain twin; in the
            native one where the log is sealed, damaged, overwritten or long. Rows may have been dropped all the same.
        """
        return None

    def _disable(self) -> None:
        """Send every look-up to `_look_up` from now on: the reader is about to move."""
        self._word = NEVER

    def _drop(self, key: str) -> None:
        """Forget a row that has changed."""
        self._cache.pop(key, None)

    def _drop_all(self) -> None:
        """Forget every row."""
        self._cache.clear()

    def _enable(
        self, control: memoryview[int], segment: memoryview[int], header: tuple[int, ...], end: int, seen: float
    ) -> None:
        """Answer as long as the generation word is `seen`.

        Args:
            control: the control block, which holds that word.
            segment: the mapped segment.
            header: the fields of the segment's header (`SegmentHeader`) when it was mapped.
            end: where its log ends in this generation, in bytes.
            seen: the generation.
        """
        self._seen = seen
        self._word = control[GENERATION_AT : GENERATION_AT + WORD_BYTES].cast("d", shape=())


class PlainRouteLookup(Lookup):
    """A cache of routes, and the look-up in it."""

    def resolve(self, model: str, *, namespace: str | None = None, max_age: float | None = None) -> Route:
        """Return which app serves `model`.

        Takes well under a microsecond once this process has looked the model up, never waits, and may be called from
        any thread, from `async def` functions, and before and after a fork.

        Args:
            model: the model's name, as an AppModel spells it.
            namespace: the namespace whose route is wanted; by default that of the oldest AppModel that has the model.
            max_age: refuse to answer from routes that were last known to be in step with their source longer ago than
                this, in seconds.

        Raises:
            ModelNotFound: no app serves it (a `LookupError`).
            NotReady: nothing has been published yet.
            StaleRoutes: the routes are older than `max_age`.
            AreaUnreadable, NoAccess: the area cannot be read at all.
            TypeError: `model` is not a str.
        """
        if namespace is None and max_age is None and self._word[()] == self._seen:
            route: Route | None = self._cache.get(model)
            if route is not None:
                return route
        return self._look_up(model, namespace, max_age)

    def _look_up(self, model: str, namespace: str | None, max_age: float | None) -> Route:
        """Answer a look-up for which the cache has no answer."""
        raise NotImplementedError


class PlainTableLookup(Lookup):
    """A cache of a table's values, and the look-up in it."""

    def __getitem__(self, key: str) -> Any:
        if self._word[()] == self._seen:
            value = self._cache.get(key)
            if value is not None:
                return value
        return self._look_up(key)

    def _look_up(self, key: str) -> Any:
        """Answer a look-up for which the cache has no answer."""
        raise NotImplementedError


NATIVE: Final = native is not None and native.FORMAT_VERSION == FORMAT_VERSION
"""Whether look-ups run in the native twin."""

if TYPE_CHECKING or not NATIVE:
    RouteLookup = PlainRouteLookup
    TableLookup = PlainTableLookup
else:
    RouteLookup = native.RouteLookup
    TableLookup = native.TableLookup
