"""Peers that answer too slowly, too much, or nonsense: every wait ends, and the error names it."""

from __future__ import annotations

import contextlib
import queue
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shmroute.errors import ApiError
from shmroute.kube.abort import run_with_deadline
from shmroute.kube.connection import RETRY_AFTER_MAX_SECONDS, Connection, _retry_after
from tests.apiserver import Certificates, make_certificates
from tests.kube.peers import EMPTY, listening, read_head, write_kubeconfig

PATH = "/apis/iidp.com/v1/appmodels"
SECONDS = 1.0
"""Deadline of the requests, in seconds. Each peer would take far longer."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def trickle(sock: socket.socket, data: bytes, *, first: int = 0) -> None:
    """Send the first bytes at once, the rest one by one; a peer's patience per read never ends."""
    sock.sendall(data[:first])
    with contextlib.suppress(OSError):
        for position in range(first, len(data)):
            sock.sendall(data[position : position + 1])
            time.sleep(0.1)


def silent(sock: socket.socket) -> None:
    """Accept, and say nothing."""
    with contextlib.suppress(OSError):
        while sock.recv(65536):
            pass


def slow_head(sock: socket.socket) -> None:
    read_head(sock)
    trickle(sock, b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 60_000)


def endless_continue(sock: socket.socket) -> None:
    read_head(sock)
    with contextlib.suppress(OSError):
        while True:
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.01)


def slow_body(status: str) -> Callable[[socket.socket], None]:
    def serve(sock: socket.socket) -> None:
        read_head(sock)
        head = f"HTTP/1.1 {status}\r\nContent-Length: 60000\r\n\r\n".encode()
        trickle(sock, head + b"x" * 60_000, first=len(head))

    return serve


SLOW: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "no answer": (silent, "waiting for the head of the answer"),
    "a slow head": (slow_head, "waiting for the head of the answer"),
    "endless 100 Continue": (endless_continue, "waiting for the head of the answer"),
    "a slow body": (slow_body("200 OK"), "reading the answer"),
    "a slow refusal": (slow_body("503 Service Unavailable"), "reading the body of status 503"),
}


@pytest.mark.fault(45)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("case", SLOW)
def test_one_deadline_bounds_a_request(case: str, tls: bool, certificates: Certificates, tmp_path: Path) -> None:
    serve, step = SLOW[case]
    with listening(serve, certificates.context() if tls else None) as port:
        connection = Connection(kubeconfig(tmp_path, port, certificates if tls else None))
        with pytest.raises(ApiError, match=f"timed out after 1 s: {step}") as caught:
            connection.request("GET", PATH, timeout_seconds=SECONDS)
        assert caught.value.status == 0
        assert_no_request_is_left()


@pytest.mark.parametrize("case", [case for case in SLOW if case != "a slow body"])
def test_one_deadline_bounds_the_head_of_a_stream(case: str, tmp_path: Path) -> None:
    serve, step = SLOW[case]
    with listening(serve) as port:
        connection = Connection(kubeconfig(tmp_path, port))
        with pytest.raises(ApiError, match=f"timed out after 1 s: {step}"):
            connection.open(PATH, {}, read_timeout_seconds=60, answer_timeout_seconds=SECONDS)
        assert_no_request_is_left()


@pytest.mark.fault(45)
def test_a_tls_handshake_that_never_ends_is_named(certificates: Certificates, tmp_path: Path) -> None:
    with listening(silent) as port:
        connection = Connection(kubeconfig(tmp_path, port, certificates))
        with pytest.raises(ApiError, match=rf"timed out after 1 s: TLS handshake with 127\.0\.0\.1:{port}"):
            connection.request("GET", PATH, timeout_seconds=SECONDS)


@pytest.mark.parametrize("serve", [silent, slow_head], ids=["silent", "slow"])
def test_a_proxy_that_never_answers_is_named(
    serve: Callable[[socket.socket], None], certificates: Certificates, tmp_path: Path
) -> None:
    with listening(serve) as port:
        cluster = {"proxy-url": f"http://127.0.0.1:{port}", "certificate-authority": str(certificates.ca)}
        url = "https://api.cluster.example:6443"
        connection = Connection(write_kubeconfig(tmp_path / "kubeconfig", url, cluster=cluster))
        step = f"waiting for the proxy 127.0.0.1:{port} to connect to api.cluster.example:6443"
        with pytest.raises(ApiError, match=f"timed out after 1 s: {step}"):
            connection.request("GET", PATH, timeout_seconds=SECONDS)
        assert_no_request_is_left()


def test_a_hanging_dns_look_up_is_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: object, **__: object) -> object:
        released.wait(30)
        raise socket.gaierror("nobody knows")

    connection = Connection(kubeconfig(tmp_path, 1))
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(ApiError, match=r"timed out after 0\.2 s: connecting to 127\.0\.0\.1:1"):
        connection.request("GET", PATH, timeout_seconds=0.2)
    released.set()
    assert_no_request_is_left()


def interrupt() -> None:
    """Press Ctrl-C: the main thread's wait ends with `KeyboardInterrupt`."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_an_interrupted_request_is_cut_at_once(tmp_path: Path) -> None:
    cut = threading.Event()

    def serve(sock: socket.socket) -> None:
        read_head(sock)
        interrupt()
        assert not sock.recv(1), "the client has closed the connection"
        cut.set()

    with listening(serve) as port:
        connection = Connection(write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{port}"))
        with pytest.raises(KeyboardInterrupt):
            connection.open(PATH, {}, read_timeout_seconds=60.0)
        assert cut.wait(10)


def test_the_answer_to_an_interrupted_wait_is_discarded() -> None:
    """The answer comes before or after the interrupt: both happen in so many attempts."""
    for attempt in range(50):
        discarded: queue.SimpleQueue[int] = queue.SimpleQueue()

        def work(attempt: int = attempt) -> int:
            interrupt()
            return attempt

        with pytest.raises(KeyboardInterrupt):
            run_with_deadline(work, seconds=60.0, abort=None, discard=discarded.put)
        assert discarded.get(timeout=10.0) == attempt
        assert discarded.empty()


def test_a_request_without_a_thread_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    connection = Connection(kubeconfig(tmp_path, 1))
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(ApiError, match="can't start new thread"):
        connection.request("GET", PATH)


# -- sizes


@pytest.mark.fault(45)
def test_too_long_an_answer_is_refused_before_it_is_read_completely(tmp_path: Path) -> None:
    sent = 0

    def serve(sock: socket.socket) -> None:
        nonlocal sent
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            while sent < 1 << 28:
                sock.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536

    with listening(serve) as port:
        with pytest.raises(ApiError, match="longer than 1000000 bytes"):
            Connection(kubeconfig(tmp_path, port)).request("GET", PATH, max_bytes=1_000_000)
        assert sent < 1 << 26


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1_000 + b"\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 " + b"2" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 100_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"\x00" * 100,
        b"",
    ],
    ids=[
        "many headers",
        "a long header",
        "a long status",
        "a long chunk size",
        "cut short",
        "compressed unasked",
        "no HTTP",
        "nothing",
    ],
)
def test_a_malformed_answer_is_an_error(head: bytes, tmp_path: Path) -> None:
    def serve(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(head)

    with listening(serve) as port, pytest.raises(ApiError) as caught:
        Connection(kubeconfig(tmp_path, port)).request("GET", PATH, timeout_seconds=10)
    assert caught.value.status == 0
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("1", 1.0),
        (" 30 ", 30.0),
        ("0", 0.0),
        ("-5", None),
        ("9" * 400, RETRY_AFTER_MAX_SECONDS),
        ("9" * 60_000, RETRY_AFTER_MAX_SECONDS),
        ("1e9", None),
        ("inf", None),
        ("nan", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_MAX_SECONDS),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 99 Jan 1970 00:00:00 GMT", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_a_number_of_seconds_within_bounds(value: str | None, seconds: float | None) -> None:
    assert _retry_after(value) == seconds


# -- Connection: close


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_stream_with_connection_close_may_be_silent_as_long(
    tls: bool, certificates: Certificates, tmp_path: Path
) -> None:
    go_on = threading.Event()

    def serve(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        go_on.wait(20)
        sock.sendall(b"at last")
        if isinstance(sock, ssl.SSLSocket):
            sock.unwrap()

    with listening(serve, certificates.context() if tls else None) as port:
        connection = Connection(kubeconfig(tmp_path, port, certificates if tls else None))
        with connection.open(PATH, {}, read_timeout_seconds=20, answer_timeout_seconds=0.5) as stream:
            threading.Timer(2.0, go_on.set).start()  # beyond the limit for the head, and a second
            assert b"".join(iter(stream.read, b"")) == b"at last"


def test_a_stream_with_connection_close_can_be_interrupted(tmp_path: Path) -> None:
    def serve(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(EMPTY.replace(b"Content-Length: 2", b"Connection: close")[:-2])
        silent(sock)

    with listening(serve) as port:
        connection = Connection(kubeconfig(tmp_path, port))
        with connection.open(PATH, {}, read_timeout_seconds=30) as stream:
            threading.Timer(0.2, stream.interrupt).start()
            with contextlib.suppress(ApiError):
                assert stream.read() == b""
            assert stream.interrupted


# -- helpers


def kubeconfig(folder: Path, port: int, certificates: Certificates | None = None) -> str:
    if certificates is None:
        return write_kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{port}")
    authority = {"certificate-authority": str(certificates.ca)}
    return write_kubeconfig(folder / "kubeconfig", f"https://127.0.0.1:{port}", cluster=authority)


def assert_no_request_is_left() -> None:
    """Assert that every abandoned request has been cut, while the peer still answers."""
    for thread in threading.enumerate():
        if thread.name == "shmroute-request":
            thread.join(10)
            assert not thread.is_alive()
