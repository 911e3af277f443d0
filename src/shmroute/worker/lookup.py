"""The look-up that every request makes: one function for each reader, whose globals are its state.

CPython reads globals as fast as a closure's cells, but need not copy each of them into the frame of every call, which
for fifteen would cost a fifth of a warm look-up. `HotPath` makes the function and sets its globals; when, says
`shmroute.worker.reader.Reader`.

A warm look-up compares one word and asks one dict. Both words stay memoryviews: to compare them is cheaper than to make
a number of one first. A first touch looks into the cell where the row's hash says that it lies, and the next ones up to
an empty one: memory is waited for once, and the quick sum tells whether this is the row, as it was before any
generation that could not be seen yet (`shmroute.shm.writing`). A row that is in no cell, since it has changed after the
base was built, is found by its slot, as `shmroute.shm.segment` does. All of it is written out here, since each call
would cost more than what it does. Whatever is not plain (no match, a long value, damage, a full memo) is left to
`Reader.look_up`, which takes the lock and its time. Whether the memo is full is not even asked where the whole table
has room in it.

**No row of the past.** First touches take no lock, so one may have read a row, be put to sleep, and wake up when
another thread has gone to the next generation and has dropped from the memo what that changed. It must not put its old
row there then. So a reader that goes on first takes the present *place* away (`leave`), then thins the memo, then gives
a new place (`point`); and a first touch keeps its row only if the place it read from is still there. Nothing comes
between that comparison and the store: under the global interpreter lock threads switch at calls and backward jumps only
(and at line events of a tracer: hence one line). Where there is no such lock, there is no place either, and every first
touch goes by the reader's own lock.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, cast
from zlib import adler32, crc32

import msgspec

from shmroute.rows import Kind
from shmroute.shm.layout import QUICK_READ

if TYPE_CHECKING:
    from shmroute.shm.segment import Quick
    from shmroute.worker.reader import Resolve
    from shmroute.worker.routes import Route

__all__ = ["NEVER", "HotPath"]

NEVER: Final = memoryview(b"\0\0\0\0\0\0\xf8\x7f").cast("d", shape=())
"""The word of a reader that is not attached: a NaN, which equals nothing, not even itself."""

_NONE_YET: Final = memoryview(bytes(8)).cast("d", shape=())
"""The generation of a reader that is not attached."""

_EMPTY_SLOT: Final = memoryview(bytes(4)).cast("I")
_NOWHERE: Final[Any] = (memoryview(b""), 1, 1, (_EMPTY_SLOT, _EMPTY_SLOT, 0, b"", 0))
"""A place without rows."""

_LOCKED: Final = not getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether first touches must take a lock."""

# What `_resolve` needs. Its globals are a copy of these.
MODEL: Final = int(Kind.MODEL)
read: Final = QUICK_READ.unpack_from
Unusual: Final = (AttributeError, UnicodeEncodeError, IndexError, struct.error, msgspec.DecodeError)

# And what is each reader's own.
head: memoryview[float] = NEVER
seen: memoryview[float] = _NONE_YET
place: Quick = _NOWHERE
memo: dict[str, Route] = {}
known: Callable[[str], Route | None] = memo.get
memo_rows = 0
roomy = False
decode: Callable[[bytes], Route] = cast("Any", None)
look_up: Callable[[str, str | None, float | None], Route] = cast("Any", None)


def _resolve(model: str, namespace: str | None = None, max_age: float | None = None) -> Route:
    """Which app serves `model`: see `shmroute.Reader.resolve`."""
    if namespace is None and max_age is None and head == seen:
        route = known(model)
        if route is not None:
            return route
        try:
            here = place
            hashed = crc32(model.encode(), MODEL)
            at = hashed % here[1] * here[2]
            while True:
                quick_sum, value = read(here[0], at)
                if adler32(value, hashed) == quick_sum:
                    route = decode(value)
                    if route.model == model and (roomy or len(memo) < memo_rows):
                        if here is place: memo[model] = route  # fmt: skip  # noqa: E701 - see the docstring
                        return route
                    break
                if not value:
                    break
                at += here[2]
        except Unusual:
            pass
        return touch(model)
    return look_up(model, namespace, max_age)


def touch(model: str) -> Route:
    """A model that is neither in the memo yet nor in a cell."""
    try:
        _, _, _, (words, tags, mask, data, end_word) = here = place
        hashed = crc32(model.encode(), MODEL)
        slot = hashed & mask
        while word := words[slot]:
            if tags[slot] ^ word == hashed:
                if word < end_word:
                    quick_sum, value = read(data, word << 3)
                    if adler32(value, hashed) == quick_sum:
                        route = decode(value)
                        if route.model == model and (roomy or len(memo) < memo_rows):
                            if here is place: memo[model] = route  # fmt: skip  # noqa: E701 - see the docstring
                            return route
                break
            slot += 1  # beyond the last slot an IndexError leads to the slow way, which goes round
    except Unusual:
        pass
    return look_up(model, None, None)


class HotPath:
    """`resolve` and the memo it fills, for one reader.

    Args:
        slow: what `resolve` calls where it has no answer.
        decoder: makes a route of a row.
        memo_limit: how many routes are kept; the reader makes room for more.
    """

    def __init__(
        self,
        slow: Callable[[str, str | None, float | None], Route],
        decoder: Callable[[bytes], Route],
        memo_limit: int,
    ) -> None:
        self.memo: dict[str, Route] = {}
        self._names: dict[str, Any] = globals() | {
            "__name__": "shmroute.worker.default",  # where `resolve` is to be found
            "memo": self.memo,
            "known": self.memo.get,
            "memo_rows": memo_limit,
            "decode": decoder,
            "look_up": slow,
        }
        self._names["touch"] = FunctionType(touch.__code__, self._names, "touch")
        function = FunctionType(_resolve.__code__, self._names, "resolve", _resolve.__defaults__)
        function.__qualname__ = "resolve"
        function.__doc__ = _resolve.__doc__
        function.__annotations__ = _resolve.__annotations__
        self.resolve = cast("Resolve", function)

    def leave(self) -> None:
        """Let no look-up go the hot way, and none that is under way keep its row."""
        names = self._names
        names["seen"] = _NONE_YET
        names["head"] = NEVER
        names["place"] = _NOWHERE

    def point(self, head: memoryview[float], seen: float, place: Quick, rows: int) -> None:
        """Answer from `place`, which has so many rows, as long as the word is `seen`."""
        names = self._names
        names["roomy"] = rows <= names["memo_rows"]
        names["place"] = _NOWHERE if _LOCKED else place
        names["seen"] = memoryview(struct.pack("d", seen)).cast("d", shape=())
        names["head"] = head
