"""The recordings in tests/wire: exchanges with a real API server, parsed.

Used by the server's own tests, and by tests that need real bytes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "wire"

_CHUNK = re.compile(rb"\[chunk at \+([0-9.]+)s, ([0-9]+) bytes\]\n")


@dataclass(frozen=True)
class Recording:
    """One exchange. A stream has chunks, another response a body."""

    name: str
    title: str
    request: bytes
    status_line: str
    headers: list[str]
    body: bytes
    chunks: list[bytes]

    @property
    def target(self) -> str:
        return self.request.split(b" ", 2)[1].decode()

    @property
    def stream(self) -> bytes:
        """The body of a watch, its chunks joined."""
        return b"".join(self.chunks)

    @property
    def lines(self) -> list[bytes]:
        return self.stream.splitlines(keepends=True)


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


@cache
def recording(name: str) -> Recording:
    """Return the recording of a name, such as "list-page-1"."""
    text = (FOLDER / f"{name}.txt").read_bytes()
    title, _, rest = text.partition(b"\n\n>>> request\n")
    request, _, response = rest.partition(b"\n<<< response\n")
    head, _, shown = request.partition(b"\n\n")
    answer, _, answer_body = response.partition(b"\n\n")
    status_line, *headers = answer.decode().split("\n")
    chunked = answer_body.startswith(b"[chunk at")
    return Recording(
        name=name,
        title=title.decode().removeprefix("# "),
        request=head.strip().replace(b"\n", b"\r\n") + b"\r\n\r\n" + _sent(shown, head),
        status_line=status_line,
        headers=headers,
        body=b"" if chunked else answer_body.removesuffix(b"\n"),
        chunks=_chunks(answer_body) if chunked else [],
    )


def _sent(shown: bytes, head: bytes) -> bytes:
    """Return the request's body as it was sent: the recording shows it spread over lines."""
    announced = re.search(rb"\nContent-Length: ([0-9]+)", head)
    return _sized(json.dumps(json.loads(shown)).encode(), int(announced[1])) if announced else b""


def _sized(body: bytes, length: int) -> bytes:
    if len(body) != length:
        raise ValueError(f"a body of {len(body)} bytes where {length} are announced")
    return body


def _chunks(text: bytes) -> list[bytes]:
    chunks: list[bytes] = []
    at = 0
    while found := _CHUNK.match(text, at):
        size = int(found[2])
        chunks.append(_sized(text[found.end() : found.end() + size], size))
        at = found.end() + size
        if text[at : at + 1] == b"\n" and _CHUNK.match(text, at + 1):
            at += 1
    return chunks
