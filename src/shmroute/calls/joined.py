"""Errors that are a `CallFailed` and an error of an HTTP library at once, so that code catching the latter works."""

from __future__ import annotations

from typing import Any

from shmroute.errors import CallFailed

_made: dict[tuple[type, type], Any] = {}
"""Classes made so far. They are few: one for each pair of a class of ours and a class of a library."""


def joined(ours: type[CallFailed], theirs: type[BaseException]) -> type[CallFailed]:
    """Return a class that derives from both and has the name of ours. Its instances survive pickle and deepcopy.

    Args:
        ours: `CallFailed` or a child.
        theirs: an exception class of a library, such as `httpx.ConnectError`. It must take a text as its argument.
    """
    if issubclass(ours, theirs):
        return ours
    made: type[CallFailed] | None = _made.get((ours, theirs))
    if made is None:
        fields = {"__module__": ours.__module__, "__doc__": ours.__doc__, "_parents": (ours, theirs)}
        made = _made[ours, theirs] = type(ours.__name__, (_Joined, ours, theirs), fields)
    return made


class _Joined(CallFailed):
    _parents: tuple[type[CallFailed], type[BaseException]]

    def __init__(self, *arguments: Any, **fields: Any) -> None:
        ours, theirs = self._parents
        ours.__init__(self, *arguments, **fields)
        theirs.__init__(self, str(self))

    def __reduce__(self) -> tuple[object, ...]:
        str(self)  # makes the text's hint, which cannot be pickled as a function
        return _restored, (*self._parents, self.args, self.__dict__)


def _restored(
    ours: type[CallFailed], theirs: type[BaseException], arguments: tuple[object, ...], fields: dict[str, object]
) -> CallFailed:
    kind = joined(ours, theirs)
    # `kind.__new__` would be that of the first parent that has one; instances of an OSError need OSError's own.
    error: CallFailed = (OSError if issubclass(kind, OSError) else Exception).__new__(kind)
    error.args = arguments
    error.__dict__.update(fields)
    return error
