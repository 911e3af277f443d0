"""Network faults made by the kernel: a forwarder that is stopped by SIGSTOP, a network namespace."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.processes import bound

__all__ = ["BlackHole", "Forwarder", "black_hole"]

T = TypeVar("T")

CLONE_NEWNET = 0x4000_0000

SYN, ACK = 0x02, 0x10
"""Flags of a TCP packet."""

FIRST_ATTEMPT_SECONDS = 60.0

_numbers = itertools.count()

FORWARD = """
import socket, sys, threading

def pump(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    for each in (source, target):
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    client, _ = listener.accept()
    server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    for ends in ((client, server), (server, client)):
        threading.Thread(target=pump, args=ends, daemon=True).start()
"""


class Forwarder:
    """A process that forwards TCP to a port and can be frozen: the kernel still accepts and acknowledges."""

    def __init__(self, to_port: int) -> None:
        command = bound([sys.executable, "-c", FORWARD, str(to_port)])
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


class BlackHole:
    """A network namespace at the other end of a virtual cable; `swallow` drops everything sent to it."""

    def __init__(self, name: str, near: str, far: str, cable: str) -> None:
        self.name = name
        self.near = near
        self.far = far
        self._cable = cable

    def inside(self, make: Callable[[], T]) -> T:
        """Call `make` within the namespace: sockets made there stay there, whichever thread uses them."""
        made: list[T] = []

        def work() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            with Path(f"/run/netns/{self.name}").open() as file:
                if libc.setns(file.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(make())

        # A thread of its own, which ends: its namespace is nobody else's.
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return made[0]

    def attempts(self, seconds: float) -> Iterator[float]:
        """Yield the monotonic time of each attempt to connect, until `seconds` after the first one.

        Raises:
            TimeoutError: nobody does so in a minute.
        """
        end = float("inf")
        with self.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)) as packets:
            packets.settimeout(FIRST_ATTEMPT_SECONDS)
            while (now := time.monotonic()) < end:
                if end < float("inf"):
                    packets.settimeout(end - now)
                try:
                    packet = packets.recv(64)
                except TimeoutError:
                    if end == float("inf"):
                        raise
                    return
                if packet[(packet[0] & 15) * 4 + 13] & (SYN | ACK) == SYN:
                    now = time.monotonic()
                    end = min(end, now + seconds)
                    yield now

    def swallow(self) -> None:
        """Drop all packets to the neighbour silently, by giving its address to nobody."""
        bogus = ("lladdr", "02:00:00:00:de:ad", "dev", self._cable, "nud", "permanent")
        ip("neigh", "replace", self.far, *bogus)

    def restore(self) -> None:
        ip("neigh", "del", self.far, "dev", self._cable)


@contextmanager
def black_hole() -> Iterator[BlackHole]:
    """Yield a namespace and its cable, gone afterwards. Skips the test where that is not allowed."""
    # The kernel takes a while to forget a namespace: no name is used twice.
    number = (os.getpid() + 97 * next(_numbers)) % 16_000
    name, near_end, far_end = f"shmroute-test-{number}", f"shmr-a{number}", f"shmr-b{number}"
    # 10.254/16, in blocks of four addresses.
    block = f"10.254.{number // 64}"
    near, far = f"{block}.{number % 64 * 4 + 1}", f"{block}.{number % 64 * 4 + 2}"
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    try:
        try:
            ip("-n", name, "link")
        except subprocess.CalledProcessError as error:  # in a chroot, whose root is no mount point
            pytest.skip(f"network namespaces cannot be entered here: {error.stderr}")
        ip("link", "add", near_end, "type", "veth", "peer", "name", far_end, "netns", name)
        ip("addr", "add", f"{near}/30", "dev", near_end)
        ip("link", "set", near_end, "up")
        for command in (("addr", "add", f"{far}/30", "dev", far_end), ("link", "set", far_end, "up")):
            ip("-n", name, *command)
        yield BlackHole(name, near, far, near_end)
    finally:
        ip("netns", "del", name)  # and the cable with it


def ip(*arguments: str) -> None:
    """Run `ip`; an error has what it has said as a note."""
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=30)
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr)
        raise
