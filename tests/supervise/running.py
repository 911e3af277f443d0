"""`shmroute run` as a real process with a folder of manifests, and a search for its leftovers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shmroute.errors import ShmrouteError
from shmroute.shm.control import ControlReader
from tests.leftovers import SHARED_MEMORY
from tests.processes import bound, is_running

WAIT_SECONDS = 30.0
STEP_SECONDS = 0.01

MODEL = "iiot_dataservice"


def until(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """Return the first true answer of `condition`; fails if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"no {what} within {seconds:g} s"
        time.sleep(STEP_SECONDS)
    return answer


class Manifests:
    """A folder in which one AppModel says which app serves the model `MODEL`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.write("iiot")

    def write(self, app: str, models: int = 1) -> None:
        """Make `app` serve the model, and further ones up to `models`, in one step as a kubelet does."""
        names = [MODEL, *(f"further-{number}" for number in range(1, models))]
        manifest = {
            "apiVersion": "iidp.com/v1",
            "kind": "AppModel",
            "metadata": {"name": "iiot", "namespace": "default"},
            "spec": {"app": app, "version": "v1", "models": [{"name": name, "version": "v1"} for name in names]},
        }
        new = self.path / ".new"
        new.write_text(json.dumps(manifest))
        new.replace(self.path / "iiot.json")


class Run:
    """A running `shmroute run`."""

    def __init__(self, process: subprocess.Popen[str], area: str) -> None:
        self.process = process
        self.area = area
        self.lines: list[str] = []
        """Lines that the command has written to standard output."""
        self.errors: list[str] = []
        """Lines that all processes have written to standard error."""
        self._threads = [
            threading.Thread(target=_collect, args=(stream, lines), daemon=True)
            for stream, lines in ((process.stdout, self.lines), (process.stderr, self.errors))
        ]
        for thread in self._threads:
            thread.start()

    def line(self, number: int = 0) -> str:
        """Return a line of the command's output, once it is there."""
        return str(until(lambda: self.lines[number : number + 1], f"line {number}, but {self.errors}")[0])

    def wait(self) -> int:
        """Return the exit code, once it has ended and all it started has closed its output."""
        code = self.process.wait(WAIT_SECONDS)
        for thread in self._threads:
            thread.join(WAIT_SECONDS)
        return code

    def send(self, number: int) -> None:
        """Send a signal to `shmroute run` itself."""
        self.process.send_signal(number)

    @property
    def watcher(self) -> int:
        """The process id of the area's watcher, once it writes."""
        return writer(self.area)


def _collect(stream: Any, lines: list[str]) -> None:
    with stream:
        lines.extend(line.rstrip("\n") for line in stream)  # one by one, as they come


def writer(area: str) -> int:
    """Return the process id of the area's present writer, once there is one."""

    def find() -> int:
        try:
            pid = ControlReader(area).writer_pid
        except (FileNotFoundError, ShmrouteError):
            return 0
        return pid if pid and is_running(pid) else 0

    return int(until(find, f"writer of {area}"))


def memory_of(area: str) -> list[Path]:
    """Return what there is of the area in /dev/shm."""
    return [path for path in SHARED_MEMORY.glob(f"shmroute-{area}*") if path.name.partition(".")[0].endswith(area)]


@contextmanager
def run(
    area: str,
    manifests: Path,
    command: Sequence[str],
    *options: str,
    environment: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    **popen: Any,
) -> Iterator[Run]:
    """`shmroute run -- command`, behind the words `before`; killed at the end if it still runs then."""
    arguments = [sys.executable, "-m", "shmroute", "run", "--area", area, "--manifests", str(manifests), *options, "--"]
    process = subprocess.Popen(
        bound([*before, *arguments, *command]),
        stdin=popen.pop("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        **popen,
    )
    running = Run(process, area)
    try:
        yield running
    finally:
        process.kill()
        running.wait()


def python(code: str) -> list[str]:
    """Return the command line of a Python program, unbuffered so that a test sees each line at once."""
    return [sys.executable, "-u", "-c", code]
