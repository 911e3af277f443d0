"""Runs the command within the test's process, and captures its output and exit code."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shmroute.cli import main
from shmroute.rows import SettingsRow
from shmroute.shm.writing.publisher import Publisher
from shmroute.sources.base import SourceState
from shmroute.testing import Answer, Routes
from shmroute.watcher.status import Status
from tests.processes import bound

WAIT_SECONDS = 30.0


class Answered(NamedTuple):
    code: int
    out: str
    err: str


class Cli:
    """Calls `main` with arguments, without the `SHMROUTE_*` variables of the caller's environment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        for name in list(os.environ):
            if name.startswith("SHMROUTE_") and not name.startswith("SHMROUTE_TEST"):
                monkeypatch.delenv(name)

    def __call__(self, *arguments: str, **variables: str) -> Answered:
        """Call the command. `variables` are environment variables of this call."""
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        with self._monkeypatch.context() as context:
            context.setattr(sys, "argv", ["shmroute", *arguments])
            for name, value in variables.items():
                context.setenv(name, value)
            try:
                with pytest.raises(SystemExit) as ended:
                    main()
            finally:  # a command that logs has put its own handler there, on a stream that ends with the test
                root.handlers[:] = handlers
                root.setLevel(level)
                logging.getLogger("shmroute").setLevel(logging.NOTSET)
        code = ended.value.code
        out, err = self._capsys.readouterr()
        return Answered(code if isinstance(code, int) else int(code is not None), out, err)


@contextmanager
def published(area: str) -> Iterator[Routes]:
    """Yield an area with some routes, as a watcher would leave it."""
    routes = Routes(area)
    routes.set(
        {
            "model1": Answer(app="sdkApp", version="v-1", namespace="east", endpoints=("10.0.0.1:80", "[fd00::1]:81")),
            "model2": Answer(app="sdkApp", version="v-2", namespace="east", metadata={"a": "ü"}),
            "other": Answer(app="otherApp", namespace="west", endpoints=()),
        }
    )
    try:
        yield routes
    finally:
        routes.close()


def publish(area: str) -> None:
    """Publish the same routes, and leave the area without a writer."""
    routes = Routes(area)
    routes.set({"model1": Answer(app="sdkApp")})
    routes._publisher.close()


def age(area: str, seconds: float) -> None:
    """Set the age of the area's last contact and heartbeat."""
    with Publisher(area) as publisher:
        then = time.monotonic_ns() - int(seconds * 1e9)
        publisher.control.beat(then, then, synced=True)


def start(*arguments: str | Path, stdout: Any = subprocess.PIPE, **variables: str) -> subprocess.Popen[str]:
    """Return the command as a process of its own; `stdout`: its standard output, by default a pipe.

    It does not get the variables that configure the tests, since a watcher warns of variables that nothing reads.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SHMROUTE_TEST_")}
    return subprocess.Popen(
        bound([sys.executable, "-m", "shmroute", *arguments]),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**inherited, **variables},
    )


def called(*arguments: str | Path, **variables: str) -> Answered:
    """Return the same, to its end: for commands that take the process's signals."""
    process = start(*arguments, **variables)
    out, err = process.communicate(timeout=WAIT_SECONDS)
    return Answered(process.returncode, out, err)


def waiting_status(area: str, resource: str, phase: str, reason: str) -> Status:
    """Return the status of a watcher that has no complete list yet."""
    numbers: dict[str, Any] = {name: 0 for name, kind in Status.__annotations__.items() if kind in ("int", "float")}
    source = SourceState(resource, phase, 0, reason)  # type: ignore[arg-type]
    return Status(
        version="1",
        area=area,
        role="writing",
        synced=False,
        rebuilding=False,
        sources=(source,),
        settings=SettingsRow("east", "iidp=iidp", "https://cluster"),
        **numbers,
    )
