"""`Watcher`: runs a watcher in a thread of the user's own program."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Self

from shmroute.errors import NotReady
from shmroute.tables.handler import Handler, TableHandler
from shmroute.watcher.build import build
from shmroute.watcher.options import WatchOptions
from shmroute.watcher.status import Status

_log = logging.getLogger(__name__)

_STOP_SECONDS = 5.0
"""Longest wait for the watcher's end. It takes at most 1 s unless the machine is overloaded."""


class Watcher:
    """Follows a cluster or a folder and publishes into an area, as `shmroute watch` does, in a thread of this process.

    Use it as a context manager, or call `start` and `stop`. While another watcher holds the area, this one stands by,
    and takes over when the other ends. Signals, logging and the HTTP port are left to the program.

    Args:
        options: the options of `shmroute watch`, by their names.
        handlers: called for each AppModel that is added, changed or deleted, each in a thread of its own.
        table_handlers: table name -> handler, called for the table's objects likewise.

    Raises:
        ConfigError: options contradict each other, the cluster configuration cannot be used, a handler lacks
            `on_add`, `on_update` or `on_delete`, or its table is not declared.
    """

    def __init__(
        self,
        options: WatchOptions | None = None,
        *,
        handlers: Iterable[Handler] = (),
        table_handlers: Mapping[str, TableHandler] | None = None,
    ) -> None:
        self._loop = build(options or WatchOptions(), handlers, table_handlers or {})
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="shmroute-watcher", daemon=True)

    def start(self) -> None:
        """Start the thread. A watcher can be started once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the watcher; the published rows stay in the area. Returns within about a second."""
        self._loop.stop()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def wait_synced(self, timeout: float) -> None:
        """Wait until this watcher has published a complete list of its own.

        Args:
            timeout: longest wait in seconds.

        Raises:
            NotReady: it has not done so within `timeout`; it cannot while another watcher holds the area.
            ConfigError, AreaUnreadable: the area cannot be used.
            RuntimeError: the watcher has ended because of a defect, which is logged.
        """
        started = time.monotonic()
        if not self._loop.synced.wait(timeout) and self._thread.is_alive():
            raise NotReady(self.area, time.monotonic() - started)
        if self._error is not None:
            raise self._error
        if self._loop.failed:
            raise RuntimeError(f"the watcher of area {self.area} ended because of a defect: see the log")
        if not self._loop.status.synced:
            raise NotReady(self.area, time.monotonic() - started)

    @property
    def area(self) -> str:
        """Name of the area that the watcher publishes into."""
        return self._loop.area

    @property
    def alive(self) -> bool:
        """Whether the watcher's thread runs."""
        return self._thread.is_alive()

    @property
    def status(self) -> Status:
        """Counters and states, at most about a second old."""
        return self._loop.status

    def audit(self) -> None:
        """Compare everything with the API server now; `status.audits` has the result."""
        self._loop.audit()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            self._loop.run()
        except Exception as error:  # noqa: BLE001 - `wait_synced` raises it
            _log.exception("area %s: the watcher ended", self.area)
            self._error = error
        finally:
            self._loop.synced.set()
