"""A real server with several workers and a folder of manifests, and clients that record its answers."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from tests.processes import bound, children, is_running
from tests.servers.page import PORT, ROOT
from tests.supervise.running import MODEL, Manifests, memory_of, until

EXAMPLES = ROOT / "examples"
WORKERS = 4
ANSWER_SECONDS = 20.0
SERVER_SECONDS = 60.0
"""Longest wait for a server, in seconds: on a busy machine it may be slow, for instance to restart all workers."""
CLIENTS = 4
ATTEMPTS = 3
"""Attempts of a client that retries: the second one may reach another worker that is ending."""
PAUSE_SECONDS = 0.05
"""Pause of a client after each request, in seconds, which leaves CPU time for the server's restart."""
LOG_CHARACTERS = 3000
TRY_SECONDS = 0.7
"""Time limit of one request, in seconds: a request to a worker that was just stopped is repeated after it."""


def example(folder: Path, *names: str, port: int = PORT) -> Path:
    """Return a folder with the files of these examples, on another port."""
    for name in names:
        for file in (EXAMPLES / name).iterdir():
            if file.is_file():
                (folder / file.name).write_text(file.read_text().replace(str(PORT), str(port)))
    return folder


def ask(port: int, model: str = MODEL, seconds: float = ANSWER_SECONDS) -> tuple[int, dict[str, Any]]:
    """Send one request on a connection of its own. Returns status and answer.

    Raises:
        OSError, HTTPException, ValueError: there was none.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        return get(connection, model)
    finally:
        connection.close()


def get(
    connection: http.client.HTTPConnection, model: str = MODEL, *, keeping: bool = False
) -> tuple[int, dict[str, Any]]:
    """Send one request on this connection, which stays open if `keeping` and the server allow it."""
    connection.request("GET", f"/{model}", headers={} if keeping else {"Connection": "close"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


class Load:
    """Clients that send requests continuously and count the answers.

    Args:
        keeping: keep connections; otherwise each request opens one.
        pause_seconds: pause of a client after each request.
        attempts: how often a request is sent when its connection closes without an answer, as a client should do with
            the servers that drop idle connections when a worker ends (docs/servers.md).
    """

    def __init__(
        self, port: int, pause_seconds: float = PAUSE_SECONDS, *, keeping: bool = False, attempts: int = 1
    ) -> None:
        self._port = port
        self._pause_seconds = pause_seconds
        self._keeping = keeping
        self._attempts = attempts
        self._stop = threading.Event()
        self.answers: Counter[str] = Counter()
        """Answers by app, roughly: the clients do not wait for each other."""
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(ANSWER_SECONDS)

    def goes_on(self, app: str, count: int = 50) -> None:
        """Wait for `count` more answers of `app`."""
        before = self.answers[app]
        until(lambda: self.answers[app] >= before + count, f"{count} answers of {app} under load", SERVER_SECONDS)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        failed = 0
        while not self._stop.wait(self._pause_seconds):
            try:
                status, answer = get(connection, keeping=self._keeping)
            except (OSError, http.client.HTTPException, ValueError) as error:
                failed += 1
                if failed == self._attempts or not isinstance(error, ConnectionError):
                    self.failures.append(repr(error))
                connection.close()
                continue
            failed = 0
            if status == 200:
                self.answers[answer["app"]] += 1
            else:
                self.failures.append(f"{status} {answer}")
        connection.close()


class Server:
    """A running server."""

    def __init__(
        self, process: subprocess.Popen[bytes], port: int, area: str, log: Path, environment: Mapping[str, str]
    ) -> None:
        self.process = process
        self.shares_socket = True
        """Whether its workers take requests from one socket; else the kernel deals them out fairly."""
        self.environment = environment
        self.port = port
        self.area = area
        self._log = log

    @property
    def log(self) -> str:
        """Output of the server so far."""
        return self._log.read_text(errors="replace")

    def send(self, number: int) -> None:
        """Send a signal to the process that was started."""
        self.process.send_signal(number)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Return the first true answer of `condition`; shows what the server has written if there is none in time."""
        try:
            return until(condition, what, SERVER_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.log[-LOG_CHARACTERS:]}") from None

    def answers(self) -> bool:
        """Whether it answers."""
        assert self.process.poll() is None, self.log[-LOG_CHARACTERS:]
        try:
            return ask(self.port)[0] == 200
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def workers(self, app: str) -> set[int]:
        """Return the process ids of the workers, once each of them has answered with `app`.

        Of workers that share a socket the kernel has favourites; so whoever has answered is stopped until all have.
        """
        seen: set[int] = set()

        def complete() -> bool:
            with suppress(OSError, http.client.HTTPException, ValueError):
                status, answer = ask(self.port, seconds=TRY_SECONDS)
                if status == 200 and answer["app"] == app:
                    seen.add(answer["worker"])
                    if self.shares_socket:
                        os.kill(answer["worker"], signal.SIGSTOP)
            return len(seen) == WORKERS

        try:
            self.until(complete, f"{app} of {WORKERS} workers")
        finally:
            for pid in seen if self.shares_socket else ():
                os.kill(pid, signal.SIGCONT)
        return seen

    def end(self, number: int) -> int:
        """Send the signal. Returns the exit code, once the process has ended and nothing of the server is left."""
        left = descendants(self.process.pid)
        self.send(number)
        code = self.process.wait(ANSWER_SECONDS)
        self.gone(left)
        return code

    def gone(self, processes: set[int]) -> None:
        """Wait until these have ended, and see that they have taken the memory along."""
        self.until(lambda: not any(map(is_running, processes)), "end of all processes")
        assert memory_of(self.area) == [], self.log[-LOG_CHARACTERS:]


def descendants(pid: int) -> set[int]:
    """Return all processes below `pid`."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        try:
            below = children(waiting.pop())
        except FileNotFoundError:  # it has ended just now
            continue
        found |= below
        waiting += below
    return found


@contextmanager
def serve(
    command: Sequence[str],
    folder: Path,
    area: str,
    manifests: Manifests,
    *,
    port: int,
    environment: Mapping[str, str] | None = None,
    answering: bool = True,
    shares_socket: bool = True,
) -> Iterator[Server]:
    """Run `command` in `folder`, wait until it answers, and kill its remaining processes at the end."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SHMROUTE_") or "TEST" in name}
    own |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "SHMROUTE_AREA": area,
        "SHMROUTE_MANIFESTS": str(manifests.path),
        **(environment or {}),
    }
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            bound(command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=own,
        )
    server = Server(process, port, area, log, own)
    server.shares_socket = shares_socket
    try:
        if answering:
            server.until(server.answers, "answer")
        yield server
    finally:
        left = descendants(process.pid) | {process.pid}
        process.kill()
        process.wait()
        for pid in left:
            if is_running(pid):
                os.kill(pid, 9)
