"""One HTTP response on its way out: framing, chunking, and faults in both.

Frames as Go's net/http does: what fits its buffer gets a Content-Length, the rest is chunked, and
watch events are cut across chunks where the buffer runs full.
"""

from __future__ import annotations

import select
import socket
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate

from .request import Request
from .status import PHRASES

#: Size of the buffer before Go's chunked writer.
GO_BUFFER_BYTES = 2048

#: Chunks of a long body; a real server's are as its encoder happens to write them.
BODY_CHUNK_BYTES = 32 * 1024


class Aborted(Exception):
    """The connection must be closed now, even in the middle of a response."""

    def __init__(self, reset: bool = False) -> None:
        super().__init__("cut on purpose")
        self.reset = reset


@dataclass
class Shape:
    """Faults of one response; by default there are none."""

    #: Re-chunk everything into pieces of this many bytes.
    chunk_bytes: int | None = None
    #: Send this many bytes, then close the connection.
    cut_after_bytes: int | None = None
    #: Send in pieces of `trickle_bytes` with a pause between them.
    trickle_bytes: int = 0
    trickle_seconds: float = 0.0


class Reply:
    """The response to one request. Used by one thread."""

    def __init__(self, sock: socket.socket, stopping: threading.Event, close: bool, request: Request) -> None:
        self.sock = sock
        self.stopping = stopping
        self.close = close
        self.request = request
        self.shape = Shape()
        self._body_bytes = 0

    def send(
        self,
        code: int,
        body: bytes,
        content_type: str = "application/json",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Send a complete response."""
        whole = len(body) <= GO_BUFFER_BYTES and self.shape.chunk_bytes is None
        self._head(code, content_type, headers, len(body) if whole else None)
        if whole:
            self._payload(body)
            return
        size = self.shape.chunk_bytes or BODY_CHUNK_BYTES
        for start in range(0, len(body), size):
            self._chunk(body[start : start + size])
        self.finish()

    def start(self, content_type: str = "application/json") -> None:
        """Send the head of a stream; lines follow, then `finish`."""
        self._head(200, content_type, (), None)

    def send_lines(self, lines: list[bytes]) -> None:
        """Send lines of a stream that are ready together, and flush after the last."""
        size = self.shape.chunk_bytes
        if size is None:
            chunks = go_chunks(lines)
        else:
            joined = b"".join(lines)
            chunks = [joined[at : at + size] for at in range(0, len(joined), size)]
        if self.shape == Shape():
            self.sock.sendall(b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in chunks))
            return
        for each in chunks:
            self._chunk(each)

    def finish(self) -> None:
        self.sock.sendall(b"0\r\n\r\n")

    def alive(self) -> bool:
        """Whether the client still holds its end open."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(0):
            return True
        try:
            self.sock.settimeout(0.01)
            # Nobody pipelines behind a watch: whatever can be read here is the end.
            return bool(self.sock.recv(1))
        except TimeoutError:
            return True
        except OSError:
            return False
        finally:
            self.sock.settimeout(None)

    def _head(
        self,
        code: int,
        content_type: str,
        headers: Sequence[tuple[str, str]],
        length: int | None,
    ) -> None:
        # Before the first byte goes out: whoever has the answer finds its code in the log.
        self.request.status = code
        fields = [
            ("Audit-Id", str(uuid.uuid4())),
            ("Cache-Control", "no-cache, private"),
            ("Content-Type", content_type),
            *headers,
        ]
        fields.sort()
        fields.append(("Date", formatdate(usegmt=True)))
        if length is not None:
            fields.append(("Content-Length", str(length)))
        if self.close:
            fields.append(("Connection", "close"))
        if length is None:
            fields.append(("Transfer-Encoding", "chunked"))
        lines = [f"HTTP/1.1 {code} {PHRASES.get(code, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in fields]
        self.sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self.sock.sendall(b"%x\r\n" % len(data))
        self._payload(data)
        self.sock.sendall(b"\r\n")

    def _payload(self, data: bytes) -> None:
        cut = self.shape.cut_after_bytes
        if cut is not None:
            data = data[: max(0, cut - self._body_bytes)]
        step = self.shape.trickle_bytes or max(1, len(data))
        for start in range(0, len(data), step):
            if self.shape.trickle_seconds and self.stopping.wait(self.shape.trickle_seconds):
                raise Aborted
            self.sock.sendall(data[start : start + step])
        self._body_bytes += len(data)
        if cut is not None and self._body_bytes >= cut:
            raise Aborted


def go_chunks(lines: list[bytes]) -> list[bytes]:
    """Return the chunks that Go's buffered writer makes of these writes and one flush."""
    chunks: list[bytes] = []
    buffered = b""
    for line in lines:
        rest = line
        while len(rest) > GO_BUFFER_BYTES - len(buffered):
            taken = len(rest) if not buffered else GO_BUFFER_BYTES - len(buffered)
            chunks.append(buffered + rest[:taken])
            rest, buffered = rest[taken:], b""
        buffered += rest
    if buffered:
        chunks.append(buffered)
    return chunks
