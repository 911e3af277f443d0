"""A source whose server answers anything over a real connection: whole, in pieces, cut, or not at all.

However it is answered, the source asks again within its deadlines, its threads stay alive, and its memory bounded.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmroute.kube.connection import Connection
from shmroute.sources.kubernetes import recovery
from tests.apiserver.recordings import Recording, recording
from tests.fuzz.bounds import Bounds
from tests.fuzz.mutations import mutated
from tests.kube.peers import write_kubeconfig
from tests.sources.kubernetes.following import LIVELY, Following

assert settings.default is not None
EXAMPLES = settings.default.max_examples // 8
"""Number of examples; each takes 0.2 s."""

THREADS = 3
"""Number of threads of a source: watch, probe and timer."""

ASKED_SECONDS = 20.0
"""Longest time until the source sends its next request, in seconds: the sum of its deadlines is far shorter."""

TIMING = msgspec.structs.replace(
    LIVELY,
    answer_seconds=0.2,
    list_silence_seconds=0.2,
    list_seconds=0.4,
    page_seconds=0.4,
    probe_seconds=0.2,
    probe_timeout_seconds=0.2,
    watch_seconds=(1.0, 2.0),
    backoff_first_seconds=0.001,
    backoff_cap_seconds=0.01,
    unreachable_cap_seconds=0.01,
    starting_cap_seconds=0.01,
    forbidden_seconds=0.01,
)


def plain(it: Recording) -> bytes:
    head = f"{it.status_line}\r\nContent-Type: application/json\r\nContent-Length: {len(it.body)}\r\n\r\n"
    return head.encode() + it.body


def chunked(it: Recording) -> bytes:
    head = f"{it.status_line}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in it.chunks) + b"0\r\n\r\n"


BODIES = (
    "list-page-1",
    "list-page-2",
    "list-empty",
    "list-rv0",
    "list-forbidden",
    "list-expired-continue",
    "probe-cache",
)
STREAMS = ("watch-events", "watch-initial-events", "watch-gone", "watch-rv0")
ANSWERS = [plain(recording(name)) for name in BODIES] + [chunked(recording(name)) for name in STREAMS]
ANSWERS += [
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: " + b"9" * 400 + b"\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + plain(recording("list-empty")),
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
]


class Answer(NamedTuple):
    data: bytes
    cuts: list[int]
    silent: bool
    """Whether the connection stays open and silent afterwards."""


class Server:
    """Answers each request with the next of `answers`, and with an empty list when there is none."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, name="server", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.open.add(client)
                threading.Thread(target=self._serve, args=(client,), name="server", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(1.0)
        with suppress(OSError), client:
            while client.recv(65_536):
                try:
                    answer = self.answers.get_nowait()
                except queue.Empty:
                    client.sendall(plain(recording("list-empty")))
                    continue
                ends = sorted({min(cut, len(answer.data)) for cut in answer.cuts} | {len(answer.data)})
                for start, end in zip([0, *ends], ends, strict=False):
                    client.sendall(answer.data[start:end])
                if not answer.silent:
                    break
        self.open.discard(client)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for client in list(self.open):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)


class Followed(NamedTuple):
    server: Server
    follow: Following
    bounds: Bounds


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    server = Server()
    folder: Path = tmp_path_factory.mktemp("answers")
    connection = Connection(str(write_kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{server.port}")))
    try:
        with pytest.MonkeyPatch.context() as patch:
            # A Retry-After is obeyed, which would take ten minutes here.
            patch.setattr(recovery, "RETRY_AFTER_MAX_SECONDS", 0.01)
            patch.setattr(recovery, "THROTTLED_JITTER_CAP_SECONDS", 0.01)
            with Following(connection, timing=TIMING) as follow:
                follow.wait(lambda: len(follow.source.threads()) == THREADS)  # they belong to no one test
                # Threads of connections end by themselves.
                yield Followed(server, follow, Bounds(spare_threads=30))
    finally:
        connection.close()
        server.close()


ONE = st.builds(
    Answer,
    mutated(ANSWERS) | st.sampled_from(ANSWERS) | st.binary(max_size=100),
    st.lists(st.integers(0, 3_000), max_size=3),
    st.booleans(),
)


# The source's own thread draws its jitter from `random` meanwhile.
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=EXAMPLES,
)
@given(st.lists(ONE, min_size=1, max_size=4))
def test_the_source_survives_any_answer_of_the_server(followed: Followed, answers: list[Answer]) -> None:
    server, follow, bounds = followed
    for answer in answers:
        server.answers.put(answer)
    follow.wait(server.answers.empty, ASKED_SECONDS)
    failed = [reason for reason in follow.source.stats.restarts if reason.endswith("-thread")]
    assert not failed, failed
    follow.events.clear()
    follow.phases.clear()
    bounds.check()
