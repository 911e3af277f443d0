"""Output on a terminal: 80 columns, each state as colour and as word, no colour with NO_COLOR."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmroute import Reader
from shmroute.cli import main
from shmroute.testing import Answer, Routes
from shmroute.watcher.report import health, report
from tests.cli.running import WAIT_SECONDS, Cli, published, start
from tests.watcher.running import wait_for

Terminal = Callable[..., str]

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MANIFESTS = """
apiVersion: iidp.com/v1
kind: AppModel
metadata: {name: newsdkapp, namespace: production}
spec: {app: newSdkApp, version: v1, models: [{name: iiot_dataservice, version: v-1}, {name: iiot_alarms, version: v-2}]}
---
apiVersion: iidp.com/v1
kind: AppModel
metadata: {name: youngapp, namespace: production}
spec: {app: youngApp, version: v3, models: [{name: iiot_dataservice, version: v-1}]}
---
apiVersion: iidp.com/v1
kind: AppModel
metadata: {name: unfinished, namespace: production}
spec: {app: unfinishedApp, version: v1}
"""


@pytest.fixture
def watched(area: str, tmp_path: Path) -> Iterator[Path]:
    """Yield the folder of a real watcher whose area a worker has open."""
    (tmp_path / "appmodels.yaml").write_text(MANIFESTS)
    process = start("watch", "--manifests", tmp_path, "--area", area)
    with Reader(area) as reader:
        reader.wait_ready(60)
        wait_for(lambda: health(report(reader))[0] == "ok")  # the watcher writes its status after its first snapshot
        yield tmp_path
    process.terminate()
    process.communicate(timeout=WAIT_SECONDS)


@pytest.fixture
def terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return a function that calls the command on a terminal of 80 columns, and returns the terminal's content."""

    def call(*arguments: str, **variables: str) -> str:
        shown = b""
        master, slave = pty.openpty()
        with (
            os.fdopen(master, "rb", buffering=0) as screen,
            os.fdopen(slave, "w") as output,
            monkeypatch.context() as context,
        ):
            context.setattr(sys, "argv", ["shmroute", *arguments])
            context.setattr(sys, "stdout", output)
            for name, value in {"COLUMNS": "80", **variables}.items():
                context.setenv(name, value)
            with pytest.raises(SystemExit):
                main()
            output.flush()
            while select.select([screen], [], [], 0)[0]:
                shown += screen.read(65_536)
        return shown.decode().replace("\r\n", "\n")

    return call


VIEWS = (
    ("status",),
    ("get", "models"),
    ("get", "apps"),
    ("get", "conflicts"),
    ("get", "invalid"),
    ("get", "workers"),
    ("explain", "iiot_dataservice"),
    ("events",),
)


def test_every_view_fits_80_columns(cli: Cli, terminal: Terminal, area: str, watched: Path) -> None:
    for view in (*VIEWS, ("doctor", "--manifests", str(watched))):
        shown = COLOUR.sub("", terminal(*view, SHMROUTE_AREA=area, SHMROUTE_OUTPUT="table"))
        assert shown.strip(), view
        assert max(map(len, shown.splitlines())) <= 80, shown
    piped = cli("events", "--area", area).out
    assert max(map(len, piped.splitlines())) > 80, "a pipe gets one line for each event"


def test_state_has_a_colour_and_a_word(terminal: Terminal, area: str, watched: Path) -> None:
    assert "state       \x1b[32m\x1b[1mok\x1b[0m: serving" in terminal("status", "--area", area)
    assert "\x1b[31m\x1b[1mproblem\x1b[0m" in terminal("doctor", "--manifests", str(watched / "absent"))
    for view in (("status", "--area", area), ("doctor", "--area", area, "--manifests", str(watched))):
        plain = terminal(*view, NO_COLOR="1")
        assert "\x1b" not in plain
        assert re.search(r"^(state +)?ok\b", plain, re.MULTILINE)


@pytest.mark.parametrize("colour", [True, False])
def test_get_watch_fits_time_and_both_values_in_80_columns(area: str, colour: bool) -> None:
    with published(area) as routes:
        master, slave = pty.openpty()
        variables = {"COLUMNS": "80", **({} if colour else {"NO_COLOR": "1"})}
        process = start("get", "models", "-w", "--area", area, stdout=slave, **variables)
        os.close(slave)
        with os.fdopen(master, "rb", buffering=0) as screen:
            shown = b""

            def until(lines: int) -> None:
                nonlocal shown
                while shown.count(b"\n") < lines:
                    assert select.select([screen], [], [], 60)[0], shown
                    shown += screen.read(65_536)

            until(4)
            routes.set({"model2": Answer(app="movedApp", namespace="east", version="v-9")})
            until(5)
            routes.remove("other")
            until(6)
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT_SECONDS) == 130
            process.communicate()
    lines = shown.decode().splitlines()
    assert lines[0].split() == ["TIME", "EVENT", "MODEL", "OLD", "NEW"]
    assert ("\x1b[31m\x1b[1mremoved" in lines[-1]) is colour
    plain = [COLOUR.sub("", line) for line in lines]
    assert re.fullmatch(r"\d\d:\d\d:\d\d  changed  model2 +v-2 sdkApp v1 +v-9 movedApp v1", plain[-2]), plain
    assert re.fullmatch(r"\d\d:\d\d:\d\d  removed  other +\S+ otherApp v1 +-", plain[-1]), plain
    assert max(map(len, plain)) <= 80


def test_status_watch_redraws_the_terminal_from_its_top(area: str) -> None:
    with published(area) as routes:
        master, slave = pty.openpty()
        process = start("status", "--watch", "--area", area, stdout=slave, COLUMNS="80", LINES="40")
        os.close(slave)
        with os.fdopen(master, "rb", buffering=0) as screen:
            shown = b""

            def until(text: bytes) -> None:
                nonlocal shown
                while text not in shown.rpartition(b"\x1b[H")[2]:
                    assert select.select([screen], [], [], 60)[0], shown
                    shown += screen.read(65_536)

            until(b"generation  1\x1b[K")
            routes.set({"model2": "movedApp"})
            until(b"generation  2\x1b[K")
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT_SECONDS) == 130
            process.communicate()


def test_names_cannot_send_control_sequences_to_the_terminal(terminal: Terminal, area: str) -> None:
    routes = Routes(area)
    routes.set({"bad\x1b[31m\u202e": Answer(app="app\x9b")})
    try:
        for view in (("get", "models"), ("explain", "bad\x1b[31m\u202e"), ("status",), ("events",)):
            assert "\x1b[31m\u202e" not in terminal(*view, SHMROUTE_AREA=area)
    finally:
        routes.close()
