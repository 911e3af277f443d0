"""Free ports: one is never given twice, neither here nor to another test process."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from tests import ports
from tests.processes import bound


def test_a_port_is_given_once_among_all_test_processes() -> None:
    code = "import tests.ports as ports; print(*(ports.free_port() for _ in range(50)), flush=True); input()"
    command = bound([sys.executable, "-c", code])
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        given = [int(word) for each in started for word in (each.stdout.readline().split() if each.stdout else ())]
    finally:
        for each in started:
            each.communicate("\n", timeout=60)
    assert len(given) == len(set(given)) == 100


def test_a_port_with_a_listener_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        assert not ports.is_free(taken)
        monkeypatch.setattr(ports, "FIRST", taken)
        monkeypatch.setattr(ports, "LAST", taken + 1)
        with pytest.raises(RuntimeError, match="no free port"):
            ports.free_port()
