"""A reader as its routes know it: where they look up endpoints and metadata, and how they find out what has changed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from shmroute.worker.lookup import NEVER
from shmroute.worker.routes import Route

if TYPE_CHECKING:
    from shmroute.worker.endpoints import Pool
    from shmroute.worker.metadata import MetadataValue
    from shmroute.worker.reader import Reader

__all__ = ["Home"]


class Home:
    """A reader as its routes know it: made for it once, and held by the class of its routes.

    By the class, since setting a field of every route would add a twentieth to its first touch; and with a weak
    reference, since a cycle that goes through the class of objects that are not tracked themselves would never be found
    by the garbage collector. A route that outlives its reader goes on with another one like it.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = weakref.ref(reader)
        self._next: Callable[[], Reader] = partial(type(reader), **reader.settings)
        self._heir: Reader | None = None
        self.head: memoryview[float] = NEVER
        """The word, and what it was when the reader last looked."""
        self.seen = 0.0

    @property
    def reader(self) -> Reader:
        """The reader, or one like it where it is gone."""
        reader = self._reader()
        if reader is None:
            reader = self._heir = self._heir or self._next()
        return reader

    def is_current(self, part: Pool | MetadataValue) -> bool:
        """Whether what was decoded from a row still stands, at this moment's generation."""
        if self.head[()] != self.seen:
            reader = self._reader()
            if reader is None:
                return False
            reader.go_on()
        return not part.stale

    def decoder(self) -> Callable[[bytes], Route]:
        """A decoder of routes that live here."""
        bound: Any = msgspec.defstruct(
            "Route",
            [("others", "tuple[BoundRoute, ...]", ())],
            bases=(Route,),
            module=Route.__module__,
            namespace={"_home": self},
            frozen=True,
            array_like=True,
            gc=False,  # nothing that a route holds leads back to it
        )
        bound.BoundRoute = bound  # what the field's type means; "Route" would be that of the module
        decoder: msgspec.msgpack.Decoder[Route] = msgspec.msgpack.Decoder(bound)
        return decoder.decode
