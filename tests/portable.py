"""A pytest plugin that removes everything that only Linux has: `pytest -p tests.portable tests/worker tests/watcher`.

shmroute then runs as it would on a Mac, as far as Linux can show that. Other packages still see Linux.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import signal
import sys
import tempfile
from typing import Any

for module, names in (
    (os, ("posix_fallocate", "memfd_create", "waitid", "pidfd_open", "eventfd")),
    (signal, ("sigtimedwait", "pidfd_send_signal")),
    (fcntl, ("F_OFD_SETLK", "F_OFD_GETLK", "F_OFD_SETLKW")),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
os.environ.setdefault("SHMROUTE_DIR", tempfile.mkdtemp(prefix="shmroute-portable-"))


class _Mac:
    """`sys`, with another platform."""

    platform = "darwin"

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


for path in ("shm.posix", "shm.register", "kube.configuration", "kube.plugin", "supervise.linux", "supervise.signals"):
    vars(importlib.import_module(f"shmroute.{path}"))["sys"] = _Mac()
importlib.import_module("shmroute.supervise.linux")._prctl = None  # type: ignore[attr-defined]
