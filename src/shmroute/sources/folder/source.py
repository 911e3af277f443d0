"""`FolderSource`: the thread that watches a folder, has it read when it changes, and tells of it.

Called by the watcher. It keeps the contract of `shmroute.sources.base`, for AppModels and EndpointSlices at once.
Changes are noticed by inotify (`watchfiles`), within some 40 ms; now and then all files are compared by `stat`, for
those that inotify cannot see (network file systems, long chains of links).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from shmroute.errors import ConfigError
from shmroute.manifests.files import is_manifest_file
from shmroute.resources.registry import BUILT_IN, WatchedKind
from shmroute.sources.base import Event, Phase, Resync, Sink, SourceState
from shmroute.sources.folder.content import Scope
from shmroute.sources.folder.listing import identity_of
from shmroute.sources.folder.reader import FolderReader

__all__ = ["FolderSource"]

_log = logging.getLogger(__name__)

RESYNC_SECONDS = 300.0
"""As the cluster's source has it."""

TICK_SECONDS = 0.5
"""How often the source says that it is in step, at least: its age must not seem to be more than a second. Also how
soon a folder that was missing or replaced is noticed, and how soon files that were in motion are read again."""

STEP_MILLISECONDS = 20
"""A change is told once nothing has followed it for so long: the files of one save come together."""

DEBOUNCE_MILLISECONDS = 200
"""A change is told after this, even if others follow without an end."""

RESCAN_SECONDS = 5.0
"""Between two comparisons of all files."""

RESCAN_SHARE = 0.01
"""Of a core, that comparing may take: 10,000 files, which take some 100 ms, are compared every 10 s."""

BLIND_RESCAN_SECONDS = 1.0
"""The same where the system has no inotify watch left."""

BLIND_SECONDS = 60.0
"""After this it is tried again to get one."""


class FolderSource:
    """Follows the manifests in `path`: *.yaml, *.yml and *.json that are not hidden; not those of subfolders.

    The folder may be missing; it is waited for. If it goes as a whole, what it held stays in force.

    Args:
        path: the folder.
        namespace: only objects of this namespace count, and those that name none belong to it. None: all
            namespaces, and those that name none belong to "default".
        selector: a label selector for the kinds that the user's selector is for (`WatchedKind.labelled`). Unlike in
            a cluster there is none by default: whoever puts a manifest into the folder means it.
        kinds: which kinds of objects to follow.
        resync_seconds: between handing every object to the handlers again.

    Raises:
        ConfigError: `selector` is no label selector, or `path` is a file.
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
        self._scope = Scope.of(kinds, namespace, selector)
        self._resync_seconds = resync_seconds
        self._blind = False
        self._contact_ns = 0
        self._lists = self._restarts = 0

    def run(self, sink: Sink, stop: threading.Event) -> None:
        """Follow the folder until `stop` is set."""
        reader = FolderReader(self.path, self._scope, stopped=stop.is_set)
        self._tell(sink, "starting")
        reachable = True
        while not stop.is_set():
            try:
                self._tell(sink, "listing")
                self._put(sink, reader.read_all())
                self._lists += 1
                reachable = True
                self._follow(reader, sink, stop)
            except OSError as error:
                reason = f"{self.path}: {error.strerror or error}"
                if reachable:
                    _log.warning("%s; what was read last stays in force", reason)
                    self._restarts += 1
                reachable = False
                self._tell(sink, "backing-off", reason)
                stop.wait(TICK_SECONDS)
        self._tell(sink, "stopped")

    def _follow(self, reader: FolderReader, sink: Sink, stop: threading.Event) -> None:
        """Keep up until other directories have to be watched, or `stop` is set. Raises `OSError` as `read_all`."""
        watched = dict(reader.directories)
        resync_at = time.monotonic() + self._resync_seconds
        rescan_at = 0.0  # at once: what changed before the watch began is not told by it
        for changes in self._changes(list(watched), stop):
            if stop.is_set():
                return
            now = time.monotonic()
            touched = self._touched(changes, reader)
            if touched is None or now >= rescan_at:
                self._put(sink, reader.read_all())
                done = time.monotonic()
                pause = BLIND_RESCAN_SECONDS if self._blind else RESCAN_SECONDS
                rescan_at = done + max(pause, (done - now) / RESCAN_SHARE)
            elif touched or reader.unsettled:
                self._put(sink, reader.read_some(touched | reader.unsettled))
            if reader.directories != watched or any(identity_of(path) != watched[path] for path in watched):
                return
            self._contact_ns = time.monotonic_ns()
            self._tell(sink, "watching")
            if now >= resync_at:
                resync_at = now + self._resync_seconds
                self._put(sink, [Resync(kind.name) for kind in self.kinds])

    def _touched(self, changes: set[str], reader: FolderReader) -> set[str] | None:
        """The files that `changes` (paths) are about; None if it takes a look at all files to tell."""
        touched = set()
        for path in map(Path, changes):
            if path.parent != self.path:
                return None  # where links lead
            if is_manifest_file(path.name):
                if reader.is_link(path.name) or path.is_symlink():
                    return None
                touched.add(path.name)
            elif path.is_symlink() or path.is_dir():
                return None  # files' links may lead through it, as through a volume's `..data`
        return touched

    def _changes(self, directories: list[Path], stop: threading.Event) -> Iterator[set[str]]:
        """Paths that have changed, as it happens; an empty set at least every tick. Ends when `stop` is set.

        Where the system gives no watch, ticks are all there is, for a minute.
        """
        import watchfiles  # takes 0.1 s, and a watcher of a cluster does without

        watching = watchfiles.watch(
            *directories,
            watch_filter=None,
            debounce=DEBOUNCE_MILLISECONDS,
            step=STEP_MILLISECONDS,
            stop_event=stop,
            rust_timeout=int(TICK_SECONDS * 1000),
            yield_on_timeout=True,
            recursive=False,
            raise_interrupt=False,
        )
        self._blind = False
        with closing(watching):
            while True:
                try:
                    changes = next(watching)
                except StopIteration:
                    return
                except FileNotFoundError:
                    return  # a directory went between listing and watching
                except (OSError, RuntimeError) as error:  # watchfiles' own error is a RuntimeError
                    _log.warning("%s cannot be watched (%s): compared once a second", self.path, error)
                    break
                yield {path for _, path in changes}
        self._blind = True
        until = time.monotonic() + BLIND_SECONDS
        while time.monotonic() < until and not stop.wait(TICK_SECONDS):
            yield set()

    def _put(self, sink: Sink, events: list[Event]) -> None:
        for event in events:
            sink.put(event)

    def _tell(self, sink: Sink, phase: Phase, reason: str = "") -> None:
        for kind in self.kinds:
            sink.put(
                SourceState(
                    kind.name,
                    phase,
                    self._contact_ns,
                    reason,
                    self._restarts,
                    self._lists,
                    TICK_SECONDS if phase == "backing-off" else 0.0,
                )
            )
