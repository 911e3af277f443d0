"""More than one plain Redis server: a master with a replica under Sentinel, a Cluster of one, a server far away."""

from __future__ import annotations

import selectors
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from tests.ports import free_port
from tests.processes import bound
from tests.redis_server import RedisServer, find_redis_server

SERVICE = "main"
WAIT_SECONDS = 20.0
_STEP_SECONDS = 0.02
SLOTS = 16_384
_BUS_OFFSET = 10_000
"""Distance of a Cluster node's second port, its bus, from its first one."""


class Sentinelled:
    """A master, a replica of it, and a Sentinel that promotes the replica when the master is gone for 0.5 s."""

    def __init__(self, master: RedisServer, replica: RedisServer, port: int) -> None:
        self.master = master
        self.replica = replica
        self.url = f"redis+sentinel://127.0.0.1:{port}/{SERVICE}"
        self._port = port

    def wait_for_replica(self) -> None:
        """Wait until the Sentinel knows the replica, and the replica is in sync with the master."""
        wait_for(lambda: self._sentinel("SENTINEL", "REPLICAS", SERVICE) != [])
        with self.master.client() as client:
            wait_for(lambda: client.wait(1, 100) == 1)

    def wait_for_promotion(self) -> None:
        def promoted() -> bool:
            try:
                with self.replica.client() as client:
                    replication: dict[str, Any] = client.info("replication")
            except (redis.RedisError, OSError):  # a server that changes its role resets its connections
                return False
            return bool(replication["role"] == "master")

        wait_for(promoted)

    def _sentinel(self, *command: str) -> object:
        with redis.Redis(port=self._port, socket_timeout=5) as client:
            return client.execute_command(*command)


@contextmanager
def sentinelled(folder: Path) -> Iterator[Sentinelled]:
    """Yield a group under Sentinel, of processes of its own."""
    with RedisServer() as master:
        replica = RedisServer(options=("--replicaof", "127.0.0.1", str(master.port)))
        with replica:
            port = free_port()
            configuration = folder / "sentinel.conf"
            configuration.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile {folder / 'sentinel.log'}\n"
                f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 1\n"
                f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 3000\n"
            )
            command = bound([find_redis_server(), configuration, "--sentinel"])
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            try:
                wait_for(lambda: _listens(port))
                group = Sentinelled(master, replica, port)
                group.wait_for_replica()
                yield group
            finally:
                process.kill()
                process.wait()


@contextmanager
def one_node_cluster() -> Iterator[RedisServer]:
    """Yield a Cluster whose one node has all slots."""
    server = RedisServer(options=("--cluster-enabled", "yes"))
    server.port = free_port(above=_BUS_OFFSET)
    with server:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS))
            wait_for(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        yield server


@contextmanager
def three_node_cluster() -> Iterator[list[RedisServer]]:
    """Yield a Cluster of three nodes with a third of the slots each, which serve on when one of them is away."""
    with ExitStack() as stack:
        servers = []
        for _ in range(3):
            server = RedisServer(options=("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"))
            server.port = free_port(above=_BUS_OFFSET)
            servers.append(stack.enter_context(server))
        for number, server in enumerate(servers):
            with server.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS * number // 3, SLOTS * (number + 1) // 3))
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                for other in servers[:number]:
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port)
        for server in servers:
            with server.client() as client:
                wait_for(lambda client=client: len(client.execute_command("CLUSTER", "SLOTS")) == 3)  # type: ignore[misc]
                wait_for(lambda client=client: b"state:ok" in client.execute_command("CLUSTER", "INFO"))  # type: ignore[misc]
        yield servers


@contextmanager
def behind_tls(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """Yield a port of 127.0.0.1 that speaks TLS and leads to `port`; for one connection at a time."""
    with _forwarder(port, lambda accepted: context.wrap_socket(accepted, server_side=True), 0.0) as forwarded:
        yield forwarded


@contextmanager
def far_away(port: int, seconds: float) -> Iterator[int]:
    """Yield a port of 127.0.0.1 that forwards one connection at a time to `port`, with a delay of `seconds`."""
    with _forwarder(port, lambda accepted: accepted, seconds) as forwarded:
        yield forwarded


@contextmanager
def _forwarder(port: int, wrap: Callable[[socket.socket], socket.socket], delay: float) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_accept, args=(listener, port, wrap, delay), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def _accept(listener: socket.socket, port: int, wrap: Callable[[socket.socket], socket.socket], delay: float) -> None:
    while True:
        try:
            accepted, _ = listener.accept()
        except OSError:
            return
        with (
            accepted,
            suppress(OSError),
            wrap(accepted) as inside,
            socket.create_connection(("127.0.0.1", port)) as outside,
            selectors.DefaultSelector() as selector,
        ):
            selector.register(inside, selectors.EVENT_READ, outside)
            selector.register(outside, selectors.EVENT_READ, inside)
            _forward(selector, delay)


def _forward(selector: selectors.DefaultSelector, delay: float) -> None:
    while True:
        for key, _ in selector.select(timeout=30):
            source = key.fileobj
            assert isinstance(source, socket.socket)
            data = source.recv(65_536)
            while isinstance(source, ssl.SSLSocket) and source.pending():
                data += source.recv(source.pending())
            if not data:
                return
            time.sleep(delay)
            key.data.sendall(data)


def wait_for(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Wait until `condition()`, at most `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(_STEP_SECONDS)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
