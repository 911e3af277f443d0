"""This process's default reader: what `from shmroute import resolve, get` gives. Attaches on first use."""

from __future__ import annotations

from typing import Final

from shmroute.worker.reader import Reader, Resolve

__all__ = ["attach", "get", "resolve", "use_area"]

_default: Final = Reader()

resolve: Final[Resolve] = _default.resolve
"""`Reader.resolve` of this process's default reader, whose area is `SHMROUTE_AREA`, else "default"."""

get: Final = _default.get
"""`Reader.get` of this process's default reader."""


def use_area(area: str | None) -> None:
    """Point this process's default reader at another area; None means `SHMROUTE_AREA` again. For tests."""
    _default.close()
    _default.choose(area)


def attach() -> None:
    """Attach this process's default reader now rather than at its first look-up, if there is a snapshot.

    Raises:
        NotReady, AreaUnreadable, NoAccess
    """
    _default.attach()
