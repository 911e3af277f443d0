"""A pod: an HTTP/1.1 server that answers with the request, or misbehaves as requested on its standard input.

    python -m tests.contrib.pod HOST PORT [CERTIFICATE]

Each line of its input is a behaviour for the requests that come from then on:

    ok              answer
    status 503      answer with that status
    hang            accept, read, and never answer
    drip            begin an answer and send a byte of its head every 50 ms, without end
    drip body       the same, in the body
    slowbody 0.5    answer at once, and send the body after so many seconds
    break           close the connection once the request has been read
    half            close the connection in the middle of the body
    slow 0.5        answer after so many seconds
    redirect URL 303  answer the path /redirect with that Location and status; 302 where none is given
    cookie VALUE    answer with Set-Cookie: pod=VALUE; Path=/
    garbage         answer with what is no HTTP

SIGTERM ends it as a server ends gracefully: it listens no longer, answers what it has begun, closes idle connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
import sys
from typing import Any


class Pod:
    """One server."""

    def __init__(self, host: str, port: int) -> None:
        self.name = f"{host}:{port}"
        self.behaviour = ["ok"]
        self.requests = 0
        self.idle: set[asyncio.StreamWriter] = set()
        self.ending = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while not self.ending:
                self.idle.add(writer)
                head = await reader.readuntil(b"\r\n\r\n")
                self.idle.discard(writer)
                await self.answer(head.decode("latin-1"), reader, writer)
        writer.close()

    async def answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *lines = head.rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
        method, target, _ = line.split(" ")
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b""
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests += 1
        kind, *rest = self.behaviour
        if kind == "hang":
            await asyncio.sleep(3600)
        if kind == "break":
            raise ConnectionResetError
        if kind == "garbage":
            writer.write(b"nonsense\r\n\r\n")
            await writer.drain()
            raise ConnectionResetError
        if kind == "drip":
            writer.write(b"HTTP/1.1 200 OK\r\nX: " + (b"x\r\nContent-Length: 9999\r\n\r\n" if rest else b""))
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        if kind == "slow":
            await asyncio.sleep(float(rest[0]))
        status = int(rest[0]) if kind == "status" else 200
        redirected = kind == "redirect" and target.startswith("/redirect")
        if redirected:
            status = int(rest[1]) if rest[1:] else 302
        said: dict[str, Any] = {
            "pod": self.name,
            "method": method,
            "target": target,
            "headers": headers,
            "body": body.decode("latin-1"),
            "requests": self.requests,
        }
        answer = json.dumps(said).encode()
        extra = ""
        if redirected:
            extra = f"Location: {rest[0]}\r\n"
        if kind == "cookie":
            extra = f"Set-Cookie: pod={rest[0]}; Path=/\r\n"
        closing = "Connection: close\r\n" if self.ending else ""
        writer.write(f"HTTP/1.1 {status} said\r\nContent-Length: {len(answer)}\r\n{extra}{closing}\r\n".encode())
        if kind == "slowbody":
            await writer.drain()
            await asyncio.sleep(float(rest[0]))
        if method != "HEAD":
            writer.write(answer[: len(answer) // 2] if kind == "half" else answer)
        await writer.drain()
        if kind == "half":
            raise ConnectionResetError


async def main(host: str, port: int, certificate: str | None) -> None:
    pod = Pod(host, port)
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.start_server(pod.serve, host, port, ssl=context)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)

    async def obey() -> None:
        while line := await commands.readline():
            pod.behaviour = line.decode().split()
            print("done", flush=True)
        ended.set()

    obeying = asyncio.ensure_future(obey())
    print("ready", flush=True)
    await ended.wait()
    obeying.cancel()
    pod.ending = True
    server.close()
    for writer in list(pod.idle):
        writer.close()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    if tasks:
        await asyncio.wait(tasks, timeout=5)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] if sys.argv[3:] else None))
