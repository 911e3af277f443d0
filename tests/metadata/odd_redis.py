"""A server on a raw socket that answers Redis clients with bytes chosen by the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Answer = Callable[[list[bytes], socket.socket], None]
"""Answers one command on its connection. Raising OSError, or closing the socket, ends the connection."""

HANDSHAKE = (b"CLIENT", b"AUTH", b"HELLO", b"SELECT")


class OddRedis:
    """Accepts connections and passes each command to `answer`; the handshake is answered with OK."""

    def __init__(self, listener: socket.socket, answer: Answer) -> None:
        self._listener = listener
        self._answer = answer
        self._open: list[socket.socket] = []
        self.commands: list[list[bytes]] = []
        self.port: int = listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, ValueError), connection.makefile("rb") as file:
            while line := file.readline():
                command = []
                for _ in range(int(line[1:])):
                    size = int(file.readline()[1:])
                    command.append(file.read(size + 2)[:-2])
                if command[0].upper() in HANDSHAKE:
                    connection.sendall(b"+OK\r\n")
                    continue
                self.commands.append(command)
                self._answer(command, connection)

    def close(self) -> None:
        """End it and all of its connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def odd_redis(answer: Answer) -> Iterator[OddRedis]:
    """Run such a server on a free port of 127.0.0.1."""
    server = OddRedis(socket.create_server(("127.0.0.1", 0)), answer)
    try:
        yield server
    finally:
        server.close()


def always(reply: bytes) -> Answer:
    """Answers every command with `reply`."""
    return lambda _, connection: connection.sendall(reply)


def mget(values: dict[bytes, bytes]) -> Answer:
    """Answers as a Redis that holds `values`."""

    def answer(command: list[bytes], connection: socket.socket) -> None:
        connection.sendall(b"".join(well_formed(command, values)))

    return answer


def well_formed(command: list[bytes], values: dict[bytes, bytes]) -> Iterator[bytes]:
    """Yield the parts of the right reply to `command`."""
    name, *keys = command
    if name == b"MGET":
        yield b"*%d\r\n" % len(keys)
        for key in keys:
            yield bulk(values.get(key))
    elif name == b"EXISTS":
        yield b":%d\r\n" % sum(key in values for key in keys)
    elif name == b"STRLEN":
        yield b":%d\r\n" % len(values.get(keys[0], b""))
    elif name == b"TYPE":
        yield b"+string\r\n" if keys[0] in values else b"+none\r\n"
    else:
        yield bulk(values.get(keys[0]))


def bulk(value: bytes | None) -> bytes:
    """Return one value as a Redis reply."""
    return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)
