"""The default reader of this process, behind `from shmroute import resolve, get`. Attaches on first use."""

from __future__ import annotations

from typing import Final

from shmroute.worker.reader import Reader


class _DefaultReader(Reader):
    def __reduce__(self) -> str:
        return "_default"  # so that `resolve` is pickled by name, like a function


_default: Final = _DefaultReader()

resolve: Final = _default.resolve
get: Final = _default.get
table: Final = _default.table
snapshot: Final = _default.snapshot


def use_area(area: str | None) -> None:
    """Make this process's default reader read another area; None means `SHMROUTE_AREA` again. For tests."""
    _default._set_area(area)


def attach() -> None:
    """Attach this process's default reader now rather than at its first look-up. Does not wait for a snapshot.

    Raises:
        NotReady, AreaUnreadable, NoAccess
    """
    _default.attach()
