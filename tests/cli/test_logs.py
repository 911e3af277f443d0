"""All output of a long-running command goes through the logger: as JSON, every line is JSON."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

from tests.cli.running import WAIT_SECONDS, start

SCRIPT = """
import logging, threading, warnings
from shmroute.cli.logs import configure

class Broken:
    def __del__(self):
        raise RuntimeError("while it is collected")

configure("info", "json")
logging.getLogger("a.library").warning("of a library")
warnings.warn("a warning of Python")
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()
broken = Broken()
del broken
raise LookupError("at the end")
"""


def test_uncaught_exceptions_and_warnings_are_lines_of_the_log() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["level"] for line in lines] == ["warning", "warning", "error", "error", "critical"]
    assert "thread worker has ended" in lines[2]["message"]
    for line, error in zip(lines[2:], ("ZeroDivisionError", "while it is collected", "at the end"), strict=True):
        assert error in line["exception"]


def test_resets_and_garbage_on_the_port_leave_the_log_json_and_quiet(area: str, tmp_path: Path) -> None:
    process = start("watch", "--manifests", tmp_path, "--area", area, "--log-format", "json", "--listen", "127.0.0.1:0")
    try:
        assert process.stderr is not None
        found = re.search(r"port (\d+)", json.loads(process.stderr.readline())["message"])
        assert found
        for begun in (b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x00", b"GET / HTTP/1.1\r\nHo"):
            with socket.create_connection(("127.0.0.1", int(found[1])), timeout=WAIT_SECONDS) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset at the end
                client.sendall(begun)
        with socket.create_connection(("127.0.0.1", int(found[1])), timeout=WAIT_SECONDS) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    finally:
        process.terminate()
        # Not by `communicate`, which loses the lines that the first `readline` has read ahead.
        said = process.stderr.read() if process.stderr else ""
        process.communicate(timeout=WAIT_SECONDS)
    assert {json.loads(line)["logger"].partition(".")[0] for line in said.splitlines()} == {"shmroute"}
