"""Free ports for servers that tests start; no other test process gets the same port."""

from __future__ import annotations

import itertools
import os
import socket

FIRST, LAST = 10_000, 32_000
"""Range of the ports: below 32,768, where Linux begins to choose ports of clients. Redis
Cluster adds 10,000 to a port for its bus."""

_numbers = itertools.count(os.getpid() * 97)


def free_port(above: int = 0) -> int:
    """Return a port of the loopback interface that nobody listens on.

    This process keeps the port until it ends: an abstract Unix socket marks it as taken for every other test process on
    this machine, as the time until the server binds it may be long.

    Args:
        above: the port this much higher is free, too.

    Raises:
        RuntimeError: no port is free.
    """
    for _ in range(LAST - FIRST):
        port = FIRST + next(_numbers) % (LAST - FIRST)
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0shmroute-test-port-{port}")
        except OSError:
            mark.close()
            continue
        if is_free(port) and (not above or is_free(port + above)):
            mark.detach()  # it stays open for as long as this process lives
            return port
        mark.close()
    raise RuntimeError("no free port")


def is_free(port: int) -> bool:
    """Whether a server could listen on it now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
