"""`FolderSource`: the thread that checks a folder periodically, and reports its changes.

Called by the watcher. It keeps the contract of `shmroute.sources.base` for all its kinds at once. A look is a `stat`
of each file, which works on every file system; inotify would be 50 ms sooner, and blind on network file systems.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from shmroute.errors import ConfigError
from shmroute.resources.registry import BUILT_IN, WatchedKind
from shmroute.sources.base import Event, Following, Phase, Resync, Sink, SourceState
from shmroute.sources.folder.content import Scope
from shmroute.sources.folder.reader import FolderReader

_log = logging.getLogger(__name__)

RESYNC_SECONDS: Final = 300.0
"""Seconds between two resyncs, which pass every object to the handlers again, as for a cluster."""

LOOK_SECONDS: Final = 0.05
"""Seconds between two looks. A change needs two: it is seen after 50 to 100 ms. Ten files cost 0.2 % of a core."""

MOST_LOOK_SECONDS: Final = 1.0
"""Longest time between two looks, in seconds, for a folder in which a look takes long."""

LOOK_SHARE: Final = 0.03
"""Largest share of a core for looks while nothing changes, as long as they are less than MOST_LOOK_SECONDS apart:
1,000 files, which take 8 ms, are checked four times a second."""

REPORT_SECONDS: Final = 0.5
"""Seconds between two reports that nothing has changed: the age of the routes stays below a second."""


class FolderSource:
    """Follows the manifests in `path`: *.yaml, *.yml and *.json that are not hidden; not those of subfolders.

    The folder may be missing; then the source waits for it. If the folder is deleted, its last objects stay.

    Args:
        path: the folder.
        namespace: the only namespace whose objects count; objects that name none belong to it. None: all
            namespaces, and objects that name none belong to "default".
        selector: a label selector for `labelled` kinds (see `WatchedKind`). Unlike in a cluster, the default selects
            everything: whoever puts a manifest into the folder means it.
        kinds: the kinds of objects to follow.
        resync_seconds: seconds between two resyncs, which pass every object to the handlers again.

    Raises:
        ConfigError: `selector` is not a label selector, or `path` is a file.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        namespace: str | None = None,
        selector: str = "",
        kinds: tuple[WatchedKind, ...] = BUILT_IN,
        resync_seconds: float = RESYNC_SECONDS,
    ) -> None:
        self.path = Path(path).absolute()
        if self.path.is_file():
            raise ConfigError(f"{self.path} is a file: give the folder that holds the manifests")
        self.kinds = kinds
        self._namespace = namespace
        self._selector = selector
        self._scope = Scope.of(kinds, namespace, selector)
        self._wanted = kinds
        self._resync_seconds = resync_seconds
        self._phase: Phase = "starting"
        self._contact_ns = self._reported_ns = 0
        self._lists = self._restarts = 0

    def follow(self, kinds: tuple[WatchedKind, ...]) -> None:
        """Follow these kinds from the next look on. Any thread; never waits."""
        self._wanted = kinds

    def run(self, sink: Sink, stop: threading.Event) -> None:
        """Follow the folder until `stop` is set."""
        reader = FolderReader(self.path, self._scope, stopped=stop.is_set)
        self._report(sink, "starting")
        resync_at = time.monotonic() + self._resync_seconds
        pause = 0.0
        while not stop.wait(pause):
            began, began_ns, spent = time.monotonic(), time.monotonic_ns(), time.thread_time()
            if self._wanted is not self.kinds:
                self.kinds = kinds = self._wanted
                reader.follow(Scope.of(kinds, self._namespace, self._selector))
                sink.put(Following(kinds))
            try:
                look = reader.look(began)
            except OSError as error:
                self._lose(sink, f"{self.path}: {error.strerror or error}")
                pause = REPORT_SECONDS
                continue
            if self._phase in ("starting", "backing-off"):
                self._report(sink, "listing")
            _put(sink, look.events)
            if look.in_step:
                self._contact_ns = began_ns
                self._lists += self._phase == "listing"
                if look.events or self._phase == "listing" or began_ns - self._reported_ns > REPORT_SECONDS * 1e9:
                    self._report(sink, "watching")
            if began >= resync_at:
                resync_at = began + self._resync_seconds
                _put(sink, (Resync(kind.name) for kind in self.kinds))
            spent = time.thread_time() - spent
            pause = min(MOST_LOOK_SECONDS, max(LOOK_SECONDS, spent / LOOK_SHARE)) if look.in_step else LOOK_SECONDS
        self._report(sink, "stopped")

    def _lose(self, sink: Sink, reason: str) -> None:
        """Report that the folder cannot be listed."""
        if self._phase != "backing-off":
            rest = "the objects that were read last stay in use" if self._lists else "nothing has been read yet"
            _log.warning("%s; %s", reason, rest)
            self._restarts += self._lists > 0
        self._report(sink, "backing-off", reason)

    def _report(self, sink: Sink, phase: Phase, reason: str = "") -> None:
        self._phase = phase
        self._reported_ns = time.monotonic_ns()
        wait = REPORT_SECONDS if phase == "backing-off" else 0.0
        _put(
            sink,
            (
                SourceState(kind.name, phase, self._contact_ns, reason, self._restarts, self._lists, wait)
                for kind in self.kinds
            ),
        )


def _put(sink: Sink, events: Iterable[Event]) -> None:
    for event in events:
        sink.put(event)
