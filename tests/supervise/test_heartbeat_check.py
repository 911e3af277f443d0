"""A frozen watcher is distinguished from one that is busy, starting or standing by. Tests count checks, not time."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from shmroute.supervise.heartbeat_check import BUSY_CHECKS, FROZEN_CHECKS, HeartbeatCheck
from shmroute.supervise.linux import state_of
from tests.processes import bound
from tests.supervise.running import python, until

WRITER = """
import sys, time
from shmroute.shm.writing.publisher import Publisher
publisher = Publisher(sys.argv[1], now_ns=time.monotonic_ns())
print("writing", flush=True)
for line in sys.stdin:
    if line == "beat\\n":
        publisher.control.beat(time.monotonic_ns(), 0, synced=False)
    else:
        end = time.process_time() + 0.03
        while time.process_time() < end:
            pass
    print("done", flush=True)
"""


class Writer:
    """A process that writes the area; on request it writes a heartbeat, or uses CPU time."""

    def __init__(self, area: str) -> None:
        started_ns = time.monotonic_ns()
        self.process = subprocess.Popen(
            bound([*python(WRITER), area]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "writing\n"
        self.pulse = HeartbeatCheck(area, self.process.pid, started_ns)

    def do(self, what: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def looks(self, count: int) -> list[bool]:
        return [self.pulse.look() for _ in range(count)]


@pytest.fixture
def writer(area: str) -> Iterator[Writer]:
    writer = Writer(area)
    yield writer
    writer.process.kill()
    writer.process.communicate()


@pytest.mark.fault(24)
def test_a_watcher_without_heartbeat_and_cpu_use_is_frozen(writer: Writer) -> None:
    writer.pulse.look()
    assert writer.looks(FROZEN_CHECKS) == [False] * (FROZEN_CHECKS - 1) + [True]


def test_each_heartbeat_restarts_the_count(writer: Writer) -> None:
    for _ in range(3):
        assert not any(writer.looks(FROZEN_CHECKS - 1))
        writer.do("beat")


def test_a_busy_watcher_counts_as_frozen_only_after_a_long_time(writer: Writer) -> None:
    writer.pulse.look()
    for _ in range(FROZEN_CHECKS + 2):
        writer.do("compute")
        assert not writer.pulse.look()
    writer.pulse._silent = BUSY_CHECKS - 2
    for frozen in (False, True):
        writer.do("compute")
        assert writer.pulse.look() is frozen


@pytest.mark.fault(24)
def test_watcher_without_the_area_is_frozen_only_if_it_was_stopped(writer: Writer) -> None:
    stranger = HeartbeatCheck("test-nobody", writer.process.pid, 0)
    assert not any(stranger.look() for _ in range(2 * FROZEN_CHECKS))
    writer.process.send_signal(signal.SIGSTOP)
    until(lambda: (state := state_of(writer.process.pid)) and state.letter == "T", "stopping")
    assert [stranger.look() for _ in range(FROZEN_CHECKS)] == [False] * (FROZEN_CHECKS - 1) + [True]


def test_writer_with_the_same_pid_in_another_container_differs(area: str, writer: Writer) -> None:
    later = HeartbeatCheck(area, writer.process.pid, time.monotonic_ns())
    assert not any(later.look() for _ in range(2 * FROZEN_CHECKS))
