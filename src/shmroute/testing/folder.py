"""A folder of manifests that a real watcher follows while a test runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shmroute.errors import NotReady
from shmroute.supervise.cleanup import remove_area
from shmroute.supervise.lifeline import Lifeline
from shmroute.testing.areas import default_area, new_area
from shmroute.worker.reader import Reader

START_SECONDS: Final = 30.0
"""Longest wait for the first snapshot. A watcher takes less than a second to start; a busy machine may need more."""

STOP_SECONDS: Final = 10.0
"""Longest wait for a watcher's end, in seconds; then it is killed."""

QUIET_SECONDS: Final = 0.05
"""Time without a further generation after which a change counts as published: a file may take two generations."""

_STEP_SECONDS: Final = 0.005
"""Seconds between two looks at the area."""


class WatchedFolder:
    """A folder of manifests, followed by a real watcher."""

    def __init__(self, path: Path, area: str) -> None:
        self.path = path
        self.area = area
        self.reader = Reader(area)

    def write(self, name: str, text: str) -> int:
        """Write a manifest file, and wait until its changes, if any, are published. Returns the generation.

        Raises:
            NotReady: the watcher has not noticed the file within 30 s.
        """
        before = self.reader.generation
        temporary = self.path / f".{name}.new"
        temporary.write_text(text)
        temporary.replace(self.path / name)
        return self._settled(before)

    def remove(self, name: str) -> int:
        """Remove a manifest file, and wait like `write`. Returns the generation."""
        before = self.reader.generation
        (self.path / name).unlink()
        return self._settled(before)

    def _settled(self, before: int) -> int:
        done = time.monotonic()
        while self.reader.generation == before:
            if time.monotonic() - self.reader.age > done:
                return before  # the watcher has read the file, and nothing has changed
            if time.monotonic() > done + START_SECONDS:
                raise NotReady(self.area, START_SECONDS)
            time.sleep(_STEP_SECONDS)
        newest, since = self.reader.generation, time.monotonic()
        while time.monotonic() < since + QUIET_SECONDS:
            time.sleep(_STEP_SECONDS)
            if self.reader.generation != newest:
                newest, since = self.reader.generation, time.monotonic()
        return newest


@contextmanager
def watched_folder(path: str | os.PathLike[str], options: Sequence[str] = ()) -> Iterator[WatchedFolder]:
    """Run `shmroute watch --manifests PATH`, and make `resolve` and `get` answer from it until the block ends.

    Args:
        path: the folder.
        options: further options of `shmroute watch`, such as `["--metadata", "folder"]`.

    Raises:
        NotReady: the watcher has not published anything within 30 s.
    """
    area = new_area()
    lifeline = Lifeline()
    command = [sys.executable, "-m", "shmroute", "watch", "--manifests", os.fspath(path), *options]
    process = subprocess.Popen(
        [*command, "--area", area, "--lifeline", str(lifeline.watched), "--keeper", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        pass_fds=(lifeline.watched,),
    )
    lifeline.close_watched()
    folder = WatchedFolder(Path(path), area)
    try:
        folder.reader.wait_ready(START_SECONDS)
        with default_area(area):
            yield folder
    finally:
        folder.reader.close()
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()
            process.wait()
            lifeline.release()
            remove_area(area)
