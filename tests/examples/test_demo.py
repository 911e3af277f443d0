"""The demo ends by itself with a summary, on a pipe and on a terminal, and leaves nothing even if interrupted."""

from __future__ import annotations

import errno
import os
import pty
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.leftovers import SHARED_MEMORY
from tests.processes import bound, is_running
from tests.servers.serving import descendants
from tests.supervise.running import until

ROOT = Path(__file__).parents[2]
SMALL = ["--workers", "2", "--models", "500"]
DEMO_SECONDS = 100.0


@contextmanager
def demo(*options: str, stdout: int = subprocess.PIPE, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a running demo of small size; killed at the end with all that is below it."""
    command = bound([sys.executable, "-m", "examples.demo", *SMALL, *options])
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stdout, text=True, env={**os.environ, **environment}
    )
    try:
        yield process
    finally:
        below = descendants(process.pid)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        for pid in filter(is_running, below):
            os.kill(pid, signal.SIGKILL)


def memory_of(process: subprocess.Popen[str]) -> list[Path]:
    return list(SHARED_MEMORY.glob(f"shmroute-demo-{process.pid}*"))


def read_until(process: subprocess.Popen[str], head: str) -> str:
    """Return the first line that begins with `head`."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(head):
            return line
    raise AssertionError(f"the demo has ended with {process.wait()} before it said {head!r}")


def test_the_demo_ends_by_itself_with_a_summary(tmp_path: Path) -> None:
    with demo(TMPDIR=str(tmp_path), HOME=str(tmp_path / "home")) as process:
        output, _ = process.communicate(timeout=DEMO_SECONDS)
        assert process.returncode == 0, output
        assert memory_of(process) == []
    *told, look_ups, move, restart, kill = output.splitlines()
    assert look_ups.startswith("proven")
    assert "look-ups a second in each worker" in look_ups
    for line, what in ((move, "moved to another app, seen by all 2 workers"), (restart, "rolling restart of 4 pods")):
        assert what in line
        assert line.endswith("0 failed")
    assert "the watcher killed under load, and back" in kill
    for head in ("look-ups/s", "memory", "saw the move"):
        assert len([line for line in told if line.startswith(head)]) == 2, "one line for each worker"
    assert "\x1b" not in output
    assert list(tmp_path.iterdir()) == [], "no folder and no home is left"


@pytest.mark.long
def test_demo_ends_by_itself_on_a_terminal() -> None:
    own, theirs = pty.openpty()
    try:
        with demo(stdout=theirs, TERM="xterm-256color", COLUMNS="200") as process:
            os.close(theirs)
            output = bytearray()
            while chunk := _read(own):
                output += chunk
            assert process.wait(DEMO_SECONDS) == 0
            assert memory_of(process) == []
    finally:
        os.close(own)
    text = output.decode()
    assert text.count("saw the move") > 10, "drawn again and again"
    assert "\x1b[" in text
    assert text.count("proven") == 4


def test_demo_shows_a_live_table_on_a_terminal_and_keep_runs_until_ctrl_c(tmp_path: Path) -> None:
    own, theirs = pty.openpty()
    options = ("--keep", "--folder", str(tmp_path / "manifests"))
    try:
        with demo(*options, stdout=theirs, TERM="xterm-256color", COLUMNS="400") as process:
            os.close(theirs)
            text = ""
            while "Ctrl-C ends it" not in text:
                chunk = _read(own)
                assert chunk, "the demo has ended"
                text += chunk.decode(errors="replace")
            below = descendants(process.pid)
            url = next(word for word in text[text.index("running on") :].split() if word.startswith("http")).rstrip(";")
            with urllib.request.urlopen(url, timeout=30) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(DEMO_SECONDS) == 0
            assert not any(map(is_running, below))
            assert memory_of(process) == []
    finally:
        os.close(own)
    assert text.count("saw the move") > 10, "drawn again and again"
    assert "\x1b[" in text
    assert text.count("proven") == 4
    assert (tmp_path / "manifests" / "iiot.json").exists(), "a folder of the user's own stays"


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError as error:  # how a terminal says that nobody holds its other side
        if error.errno != errno.EIO:
            raise
        return b""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: int, code: int) -> None:
    with demo(TMPDIR=str(tmp_path)) as process:
        read_until(process, "move")
        below = descendants(process.pid)
        process.send_signal(number)
        assert process.wait(30) == code
        until(lambda: not any(map(is_running, below)), "end of the server")
        assert memory_of(process) == []
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []


def test_demo_without_gunicorn_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.py").write_text("raise ImportError")
    finished = subprocess.run(
        bound([sys.executable, "-m", "examples.demo"]),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 1
    assert "pip install gunicorn" in finished.stderr
