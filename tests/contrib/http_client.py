"""A client that sees when and how a server ends its connection."""

from __future__ import annotations

import asyncio

__all__ = ["LONG_SECONDS", "Connection"]

LONG_SECONDS = 30.0

_REQUEST = b"GET /%s HTTP/1.1\r\nHost: here\r\n\r\n"


class Connection:
    """A client's connection. Its answers have a body of two bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, what: bytes = b"now") -> None:
        """Send a request for this path."""
        self.writer.write(_REQUEST % what)

    async def answer(self) -> tuple[bool, bytes]:
        """Whether it says that the connection is closed after it, and its body."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), LONG_SECONDS)
        assert head.startswith(b"HTTP/1.1 200")
        body = await asyncio.wait_for(self._reader.readexactly(2), LONG_SECONDS)
        return b"\r\nconnection: close\r\n" in head.lower(), body

    async def is_closed(self) -> bool:
        """Wait for the end."""
        return await asyncio.wait_for(self._reader.read(), LONG_SECONDS) == b""
