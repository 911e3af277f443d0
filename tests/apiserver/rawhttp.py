"""A client that shows a response as it was sent: status line, headers in order, chunk by chunk."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

#: No read waits longer than this.
TIMEOUT_SECONDS = 30.0


class RawExchange:
    """One request and its response, on a connection of its own."""

    def __init__(self, host: str, port: int, request: bytes) -> None:
        self._sock = socket.create_connection((host, port), TIMEOUT_SECONDS)
        self._sock.sendall(request)
        self._file = self._sock.makefile("rb")
        self.status_line = self._file.readline().decode().strip()
        self.headers: list[str] = []
        while line := self._file.readline().strip():
            self.headers.append(line.decode())

    @property
    def code(self) -> int:
        return int(self.status_line.split()[1])

    def header(self, name: str) -> str | None:
        for each in self.headers:
            if each.lower().startswith(name.lower() + ": "):
                return each.split(": ", 1)[1]
        return None

    def chunk(self) -> bytes:
        """Return the next chunk, b"" the last; EOFError where the connection ends without it."""
        line = self._file.readline()
        if not line:
            raise EOFError("the connection ended within a chunked body")
        size = int(line, 16)
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError("the connection ended within a chunk")
        self._file.readline()
        return data

    def body(self) -> bytes:
        """Return the rest of the body; EOFError where it is cut."""
        if self.header("Transfer-Encoding") == "chunked":
            return b"".join(iter(self.chunk, b""))
        length = int(self.header("Content-Length") or 0)
        data = self._file.read(length)
        if len(data) < length:
            raise EOFError(f"{len(data)} of {length} bytes")
        return data

    def close(self) -> None:
        self._file.close()
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
