"""The look-up that every request makes: compare one word, ask one dict, else ask the owner.

`RouteLookup` is the base of `Reader`. It owns the rows that this process keeps decoded (its cache), and knows the
generation that they belong to. Everything else is left to the subclass's `_look_up`: the first look-up, the first one
after a new generation, options, and errors. `shmroute.worker.position` calls `_disable`, `_drop` and `_enable` when
the reader moves to another generation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shmroute.worker.routes import Route

__all__ = ["NEVER", "RouteLookup"]

NEVER: Final = memoryview(b"\0\0\0\0\0\0\xf8\x7f").cast("d", shape=())
"""The generation word of a reader that is not attached: a NaN, which equals nothing, not even itself."""


class RouteLookup:
    """One reader's routes: the cache, and the look-up in it."""

    def __init__(self) -> None:
        self._cache: dict[str, Route] = {}
        self._word: memoryview[float] = NEVER
        self._seen = 0.0

    def resolve(self, model: str, *, namespace: str | None = None, max_age: float | None = None) -> Route:
        """Which app serves `model`.

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
            try:
                return self._cache[model]
            except KeyError:
                pass
        return self._look_up(model, namespace, max_age)

    def _look_up(self, model: str, namespace: str | None, max_age: float | None) -> Route:
        """The look-up where the cache has no answer."""
        raise NotImplementedError

    def _disable(self) -> None:
        """Send every look-up to `_look_up` from now on: the reader is about to move."""
        self._word = NEVER

    def _drop(self, key: str) -> None:
        """Forget a row that has changed."""
        self._cache.pop(key, None)

    def _drop_all(self) -> None:
        """Forget every row."""
        self._cache.clear()

    def _enable(self, word: memoryview[float], seen: float) -> None:
        """Answer from the cache as long as the generation word is `seen`."""
        self._seen = seen
        self._word = word
