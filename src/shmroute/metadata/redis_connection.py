"""One connection to one Redis server, on which every exchange has a deadline and a size limit.

The `redis` package connects, authenticates and parses. Between its parser and the socket, a guard checks the time
until the whole answer has arrived, its bytes and its structure. So whatever a server sends, an answer over the limits
is refused before it takes memory. Called by `redis_store` and `redis_servers`.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

from redis.connection import Connection, DefaultParser, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from shmroute.metadata.store import StoreUnavailable

Command = tuple[Any, ...]

MAX_LINE_BYTES: Final = 64 * 1024
"""Longest status, error or length line, in bytes. Redis' own inline limit is 64 KiB."""

MAX_DEPTH: Final = 9
"""Deepest nesting of arrays; hiredis' limit. Our commands' replies nest at most 4 deep (CLUSTER SLOTS)."""

MAX_ELEMENTS: Final = 300_000
"""Maximum elements of all arrays of one exchange. CLUSTER SLOTS with 16,384 single slots has about 250,000; 300,000
objects take at most 20 MB in Python."""

CONTROL_BYTES: Final = 1024 * 1024
"""Maximum bytes of everything except values: handshake, lengths, CLUSTER SLOTS."""

MAX_REPORTED: Final = 200
"""Longest server text kept in an error message, in characters."""

_NUMBER: Final = re.compile(rb"-?[0-9]{1,18}")


class ReplyTooLarge(Exception):
    """A reply is over its limit; it was not read and the connection is closed.

    Args:
        reply, element: position of the value over the limit: number of the reply, number of the element in its array.
        size_bytes: the length of that value; 0 if all replies together are too large.
        limit_bytes: the limit, of one value or of all replies together.
    """

    def __init__(self, reply: int, element: int, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{'a value' if size_bytes else 'replies'} of more than {limit_bytes:,} bytes")
        self.reply = reply
        self.element = element
        self.size_bytes = size_bytes


class Exchange:
    """Limits of one or several commands to one server.

    Args:
        seconds: longest time until all replies have arrived.
        value_bytes: longest value.
        total_bytes: maximum bytes of all replies together, in addition to `CONTROL_BYTES`.
    """

    def __init__(self, seconds: float, value_bytes: int = 0, total_bytes: int = 0) -> None:
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._value_bytes = value_bytes
        self._total_bytes = total_bytes
        self._elements = 0
        self.limit_bytes = max(total_bytes, value_bytes) + CONTROL_BYTES
        self._left = self.limit_bytes
        self.value_bytes = max(value_bytes, MAX_LINE_BYTES)

    def again(self) -> Exchange:
        """Return the same limits for further commands, within the same deadline."""
        exchange = Exchange(self._seconds, self._value_bytes, self._total_bytes)
        exchange._deadline = self._deadline
        return exchange

    def wait(self, longest: float | None) -> float:
        """Return the longest time of the next step, in seconds.

        Raises:
            TimeoutError: the deadline has passed.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(self.expired)
        return left if longest is None else min(left, longest)

    @property
    def expired(self) -> str:
        """Reason why the exchange has ended, if its deadline has passed; else ""."""
        return f"no complete answer within {self._seconds:g} s" if time.monotonic() >= self._deadline else ""

    def count(self, *, received: int = 0, elements: int = 0) -> bool:
        """Add to the bytes and array elements received so far. Return whether both are still within their limits."""
        self._left -= received
        self._elements += elements
        return self._left >= 0 and self._elements <= MAX_ELEMENTS


class _GuardedSocket:
    """A socket that reads within the limits of an exchange and checks the RESP2 framing of the bytes."""

    def __init__(self, sock: socket.socket, connection: _Guarded) -> None:
        self._sock = sock
        self._connection = connection
        self.replies = 0
        """Number of complete replies since it was last set to 0."""
        self._open: list[int] = []
        """Number of missing elements of each array that has begun."""
        self._lengths: list[int] = []
        self._line = bytearray()
        self._body = 0
        """Number of missing bytes of a value."""
        self._after_body = False

    @property
    def at_rest(self) -> bool:
        """Whether every reply that has begun is complete."""
        return not (self._open or self._line or self._body or self._after_body)

    @property
    def has_unread(self) -> bool:
        """Whether the server has sent unrequested bytes, or has closed the connection."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def recv(self, size: int) -> bytes:
        """`socket.recv` within the limits."""
        self._set_wait()
        data = self._sock.recv(size)
        self._follow(data)
        return data

    def recv_into(self, buffer: bytearray, *args: int) -> int:
        """`socket.recv_into` within the limits, for hiredis' parser."""
        self._set_wait()
        count = self._sock.recv_into(buffer, *args)
        self._follow(bytes(memoryview(buffer)[:count]))
        return count

    def sendall(self, data: bytes) -> None:
        """`socket.sendall` within the deadline."""
        self._set_wait()
        self._sock.sendall(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def _set_wait(self) -> None:
        self._sock.settimeout(self._connection.exchange.wait(self._connection.socket_timeout))

    def _follow(self, data: bytes) -> None:
        if not self._connection.exchange.count(received=len(data)):
            raise ReplyTooLarge(self.replies, 0, 0, self._connection.exchange.limit_bytes)
        at = 0
        while at < len(data):
            if self._body:
                step = min(self._body, len(data) - at)
                self._body -= step
                at += step
                self._after_body = not self._body
                continue
            end = data.find(b"\n", at) + 1 or len(data)
            self._line += data[at:end]
            at = end
            if len(self._line) > MAX_LINE_BYTES:
                raise _out_of_shape(f"a line of more than {MAX_LINE_BYTES} bytes")
            if self._line.endswith(b"\n"):
                line = bytes(self._line)
                self._line.clear()
                self._take_line(line)

    def _take_line(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise _out_of_shape(f"a line without CRLF: {line[:40]!r}")
        if self._after_body:
            if line != b"\r\n":
                raise _out_of_shape("a value longer than its announced length")
            self._after_body = False
            self._element_done()
            return
        kind, rest = line[:1], line[1:-2]
        if kind == b"-" and self._open:
            raise _out_of_shape("an error inside an array")
        if kind in b"+-":
            self._element_done()
        elif kind not in b":$*" or not _NUMBER.fullmatch(rest):
            raise _out_of_shape(f"the line {line[:40]!r}")
        elif kind == b":" or rest == b"-1":
            self._element_done()
        elif rest.startswith(b"-"):
            raise _out_of_shape(f"the length {rest[:40]!r}")
        elif kind == b"$":
            self._begin_body(int(rest))
        else:
            self._begin_array(int(rest))

    def _begin_body(self, size: int) -> None:
        if size > self._connection.exchange.value_bytes:
            element = self._lengths[0] - self._open[0] if self._open else 0
            raise ReplyTooLarge(self.replies, element, size, self._connection.exchange.value_bytes)
        self._body = size
        self._after_body = not size

    def _begin_array(self, length: int) -> None:
        if len(self._open) >= MAX_DEPTH or not self._connection.exchange.count(elements=length):
            raise _out_of_shape(f"arrays deeper than {MAX_DEPTH} or with more than {MAX_ELEMENTS} elements")
        if length:
            self._open.append(length)
            self._lengths.append(length)
        else:
            self._element_done()

    def _element_done(self) -> None:
        while self._open:
            self._open[-1] -= 1
            if self._open[-1]:
                return
            self._open.pop()
            self._lengths.pop()
        self.replies += 1


class _Parser(DefaultParser):  # type: ignore[valid-type,misc]
    """The package's parser; it also knows a Cluster's errors, which the original lacks in some versions."""

    EXCEPTION_CLASSES = {  # noqa: RUF012 - as in the class it extends
        **DefaultParser.EXCEPTION_CLASSES,
        "ASK": AskError,
        "CLUSTERDOWN": ClusterDownError,
        "CROSSSLOT": ClusterCrossSlotError,
        "MASTERDOWN": MasterDownError,
        "MOVED": MovedError,
        "TRYAGAIN": TryAgainError,
    }


class _Guarded:
    """Mixin for a connection of the `redis` package: `exchange` limits its socket."""

    exchange: Exchange
    socket_timeout: float | None
    guard: _GuardedSocket | None = None

    def _connect(self) -> Any:
        self.guard = _GuardedSocket(super()._connect(), self)  # type: ignore[misc]
        return self.guard


class _WithinDeadline(Connection):
    """Tries each address of a name in turn, all within the exchange's deadline."""

    exchange: Exchange

    def _connect(self) -> socket.socket:
        failure: OSError = OSError("the name has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            connected = socket.socket(family, kind, protocol)
            try:
                connected.settimeout(self.exchange.wait(self.socket_connect_timeout))
                connected.connect(address)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                connected.settimeout(self.exchange.wait(self.socket_timeout))
            except OSError as error:
                connected.close()
                failure = error
            else:
                return connected
        raise failure


class TcpConnection(_Guarded, _WithinDeadline):
    """A connection over TCP."""


class TlsConnection(_Guarded, SSLConnection, _WithinDeadline):
    """A connection over TLS."""


class UnixConnection(_Guarded, UnixDomainSocketConnection):
    """A connection over a Unix socket."""


class RedisServer:
    """One server; the first command connects. Called from one thread, except for `close`.

    Args:
        options: arguments of a connection of the `redis` package: host and port or path, user, timeouts and so on.
        tls: whether to use TLS.
    """

    def __init__(self, options: dict[str, Any], *, tls: bool = False) -> None:
        kind: type[_Guarded] = TlsConnection if tls else UnixConnection if "path" in options else TcpConnection
        self._connection: Any = kind(**{**options, "parser_class": _Parser})
        self.name = str(options.get("path") or f"{options.get('host')}:{options.get('port')}")

    def ask(self, commands: Sequence[Command], exchange: Exchange) -> list[Any]:
        """Send `commands` and return their replies, in one exchange. A reply may be a `ResponseError`.

        Raises:
            StoreUnavailable: there is no connection, no complete answer in time, or the answer is not Redis' protocol.
            ReplyTooLarge: a reply is over its limit.
        """
        try:
            return self._ask(commands, exchange)
        except (StoreUnavailable, ReplyTooLarge):
            self.close()
            raise
        except (RedisError, OSError) as error:
            self.close()
            raise StoreUnavailable(exchange.expired or explain(error)) from error
        except Exception as error:
            # The package's parser and handshake do not expect arbitrary bytes: they have raised ValueError, IndexError,
            # RecursionError and others.
            self.close()
            raise _out_of_shape(f"{type(error).__name__}: {explain(error)}") from error

    def _ask(self, commands: Sequence[Command], exchange: Exchange) -> list[Any]:
        connection: Any = self._connection
        connection.exchange = exchange
        if connection.guard is not None and connection.guard.has_unread:
            self.close()
        try:
            connection.connect()
        except ReplyTooLarge as error:
            raise _out_of_shape(f"the handshake has {error}") from error
        guard: _GuardedSocket = connection.guard
        guard.replies = 0
        connection.send_packed_command(connection.pack_commands(commands))
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(connection.read_response(disable_decoding=True))
            except ResponseError as error:
                replies.append(error)
        if guard.replies != len(commands) or not guard.at_rest:
            raise _out_of_shape("more replies than commands")
        return replies

    def close(self) -> None:
        """Close the connection, also during another thread's exchange, which then fails."""
        connection: Any = self._connection
        connection.disconnect()
        connection.guard = None


def explain(error: BaseException) -> str:
    """Return the text of an error, in one line of limited length."""
    return " ".join(str(error).split())[:MAX_REPORTED] or type(error).__name__


def _out_of_shape(what: str) -> StoreUnavailable:
    return StoreUnavailable(f"the server's reply is not Redis' protocol: {what}; is this a Redis server?")
