"""Loads the native twin (`shmroute._native`, written in C) if it was built and is not switched off.

`SHMROUTE_PURE=1` in the environment switches the native twin off for the process. Plain Python can do everything that
it does: `shmroute.worker.lookup` has the Python twin of each type.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import ModuleType

_INTERFACE: Final = 3
"""Expected `INTERFACE` of the C module. An editable install may still have an older module."""


def _load() -> tuple[ModuleType | None, str]:
    if os.environ.get("SHMROUTE_PURE", "") not in ("", "0"):
        return None, "SHMROUTE_PURE is set"
    try:
        _native = import_module("shmroute._native")
    except ImportError as error:
        return None, f"it was not built for this installation, or cannot be loaded here ({error})"
    if _native.INTERFACE != _INTERFACE:
        return None, "it was built from other sources: install shmroute again"
    return _native, ""


native, missing = _load()
"""The extension module or None, and the reason why it is None, in words."""
