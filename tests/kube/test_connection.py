"""Requests: authentication, TLS, errors, and that every wait can be ended."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shmroute.errors import ApiError
from shmroute.kube.abort import Abort
from shmroute.kube.configuration import USER_TIMEOUT_MILLISECONDS
from shmroute.kube.connection import Connection, Stream, path_of
from shmroute.version import __version__
from tests.apiserver import ApiServer, Certificates, app_model, make_certificates

ALL = "/apis/iidp.com/v1/appmodels"
BLOCKED_SECONDS = 20.0
"""Seconds after which a wait counts as never ended; tests end theirs within a fraction of it."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificates, Certificates]:
    folder = tmp_path_factory.mktemp("certificates")
    return make_certificates(folder, "first"), make_certificates(folder, "second")


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """Yield a port that neither accepts nor refuses: its queue of connections is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield address[1]


def write_kubeconfig(path: Path, server: str, **cluster: str | bool) -> str:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": {"token": "test-token"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(config))
    return str(path)


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Start `work` in a thread; its result, or the ApiError it raised, is in the list at the end."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except ApiError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def test_a_request_carries_credentials_and_user_agent(api: ApiServer, api_connection: Connection) -> None:
    answer = api_connection.request("GET", ALL)

    assert answer.status == 200
    assert answer.headers["CONTENT-TYPE"] == "application/json"
    assert answer.data.startswith(b'{"apiVersion":"iidp.com/v1"')
    [request] = api.requests
    assert request.headers["authorization"] == "Bearer test-token"
    assert request.headers["user-agent"] == f"shmroute/{__version__}"


def test_connections_of_many_tables_are_reused(
    api: ApiServer, api_connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    together = threading.Barrier(24)

    def ask() -> None:
        for _ in range(3):
            together.wait(BLOCKED_SECONDS * 3)
            api_connection.request("GET", ALL)

    threads = [threading.Thread(target=ask) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BLOCKED_SECONDS * 3)
    assert "pool is full" not in caplog.text
    assert len(api.requests) == 72


def test_a_body_is_sent_unchanged_with_its_content_type(api: ApiServer, api_connection: Connection) -> None:
    path = path_of("apis", "iidp.com", "v1", "namespaces", "default", "appmodels", "one")
    body = yaml.safe_dump(app_model("one")).encode()

    answer = api_connection.request(
        "PATCH", path, {"fieldManager": "tests", "force": "true"}, body, "application/apply-patch+yaml"
    )

    assert answer.status == 201
    assert api.get("appmodels", "one") is not None


def test_path_segments_are_percent_encoded() -> None:
    assert path_of("apis", "a/../b", "c?d") == "/apis/a%2F..%2Fb/c%3Fd"


def test_a_refusal_carries_the_servers_status_reason_and_message(api: ApiServer, api_connection: Connection) -> None:
    api.faults.forbidden(times=1)

    with pytest.raises(ApiError) as caught:
        api_connection.request("GET", ALL)

    assert caught.value.status == 403
    assert caught.value.reason == "Forbidden"
    assert "cannot list resource" in caught.value.message
    assert caught.value.details == {"group": "iidp.com", "kind": "appmodels"}


def test_a_refusal_without_a_status_object_shows_its_own_text(api_connection: Connection) -> None:
    with pytest.raises(ApiError) as caught:
        api_connection.request("GET", "/apis/nothing/v1")

    assert (caught.value.status, caught.value.message) == (404, "404 page not found")


def test_retry_after_is_given_in_seconds(api: ApiServer, api_connection: Connection) -> None:
    api.faults.unavailable(times=1, retry_after=7)

    with pytest.raises(ApiError) as caught:
        api_connection.request("GET", ALL)

    assert (caught.value.status, caught.value.retry_after_seconds) == (503, 7.0)


def test_a_redirect_is_a_refusal_and_is_not_followed(api: ApiServer, api_connection: Connection) -> None:
    api.faults.fail(302, times=1)

    with pytest.raises(ApiError) as caught:
        api_connection.request("GET", ALL)

    assert caught.value.status == 302
    assert len(api.requests) == 1


def test_a_rotated_token_file_is_read_before_any_refusal(api: ApiServer, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    connection = Connection(str(api.kubeconfig(tmp_path / "kubeconfig", token_file=token_file)))
    connection.request("GET", ALL)

    token_file.write_text(api.auth.rotate())
    connection.request("GET", ALL)

    assert [request.status for request in api.requests] == [200, 200]


def test_token_is_reread_after_a_401_even_if_its_file_looks_unchanged(api: ApiServer, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    connection = Connection(str(api.kubeconfig(tmp_path / "kubeconfig", token_file=token_file)))
    before = token_file.stat()

    token_file.write_text(api.auth.rotate("t" * len(api.auth.token)))
    os.utime(token_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    connection.request("GET", ALL)

    assert [request.status for request in api.requests] == [401, 200]


def test_a_refused_credential_is_tried_at_most_twice(api: ApiServer, api_connection: Connection) -> None:
    api.auth.rotate()

    with pytest.raises(ApiError) as caught:
        api_connection.request("GET", ALL)

    assert (caught.value.status, caught.value.reason) == (401, "Unauthorized")
    assert len(api.requests) == 2


@pytest.mark.fault(14)
def test_a_replaced_kubeconfig_is_read_before_any_refusal(api: ApiServer, tmp_path: Path) -> None:
    kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
    connection = Connection(str(kubeconfig))
    connection.request("GET", ALL)

    api.auth.rotate("another-token-of-another-length")
    api.kubeconfig(kubeconfig)
    connection.request("GET", ALL)

    assert [request.status for request in api.requests] == [200, 200]


def test_half_written_kubeconfig_leaves_the_former_one_in_use(api: ApiServer, tmp_path: Path) -> None:
    kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
    connection = Connection(str(kubeconfig))
    good = kubeconfig.read_text()

    kubeconfig.write_text(good[: len(good) // 2])

    assert connection.request("GET", ALL).status == 200


def test_a_pods_rotated_token_is_used_at_once(
    certificates: tuple[Certificates, Certificates], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes.config import incluster_config

    first, _ = certificates
    with ApiServer(certificates=first) as api:
        token_file = tmp_path / "token"
        token_file.write_text(api.auth.token + "\n")
        (tmp_path / "namespace").write_text("of-the-pod")
        monkeypatch.delenv("KUBECONFIG", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token_file))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(first.ca))
        connection = Connection()
        connection.request("GET", ALL)

        token_file.write_text(api.auth.rotate())
        connection.request("GET", ALL)

        assert connection.namespace == "of-the-pod"
        assert connection.host == f"https://127.0.0.1:{api.port}"
        assert [request.status for request in api.requests] == [200, 200]


def test_a_server_with_an_untrusted_certificate_is_refused(
    certificates: tuple[Certificates, Certificates], tmp_path: Path
) -> None:
    first, second = certificates
    with ApiServer(certificates=first) as api:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", api.url, **{"certificate-authority": str(second.ca)})

        with pytest.raises(ApiError, match="certificate verify failed") as caught:
            Connection(kubeconfig).request("GET", ALL)

        assert caught.value.status == 0
        assert not list(api.requests)


def test_authorities_that_kubectl_accepts_are_accepted_by_every_python(tmp_path: Path) -> None:
    """The authority has no key usage, which Python refuses by default from 3.13 on."""
    ca, ca_key, certificate, key = (tmp_path / name for name in ("ca.crt", "ca.key", "own.crt", "own.key"))
    (tmp_path / "openssl.cnf").write_text(
        "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = own\n"
        "[authority]\nbasicConstraints = critical, CA:TRUE\n[server]\nsubjectAltName = IP:127.0.0.1\n"
    )
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-config", str(tmp_path / "openssl.cnf")]
    for options in (
        ["-extensions", "authority", "-keyout", str(ca_key), "-out", str(ca), "-subj", "/CN=an authority"],
        ["-extensions", "server", "-CA", str(ca), "-CAkey", str(ca_key), "-keyout", str(key), "-out", str(certificate)],
    ):
        subprocess.run([*command, *options], check=True, capture_output=True, timeout=60)

    with ApiServer(certificates=Certificates(ca, certificate, key)) as api:
        own = write_kubeconfig(tmp_path / "kubeconfig", api.url, **{"certificate-authority": str(ca)})
        assert Connection(own).request("GET", ALL).status == 200

        unchecked = write_kubeconfig(tmp_path / "unchecked", api.url, **{"insecure-skip-tls-verify": True})
        assert Connection(unchecked).request("GET", ALL).status == 200

        system = write_kubeconfig(tmp_path / "system", api.url)
        with pytest.raises(ApiError, match="certificate verify failed"):
            Connection(system).request("GET", ALL)


def test_a_server_whose_certificate_has_another_name_is_refused(
    certificates: tuple[Certificates, Certificates], tmp_path: Path
) -> None:
    first, _ = certificates
    with ApiServer(certificates=first) as api:
        kubeconfig = write_kubeconfig(
            tmp_path / "kubeconfig",
            api.url,
            **{"certificate-authority": str(first.ca), "tls-server-name": "elsewhere.example"},
        )

        with pytest.raises(ApiError, match=r"elsewhere\.example"):
            Connection(kubeconfig).request("GET", ALL)


@pytest.mark.parametrize("embedded", [False, True], ids=["as a file", "within the kubeconfig"])
def test_a_rotated_authority_is_used_at_the_next_connect(
    certificates: tuple[Certificates, Certificates], tmp_path: Path, embedded: bool
) -> None:
    first, second = certificates
    ca, kubeconfig = tmp_path / "ca.crt", tmp_path / "kubeconfig"

    def trust(certificate: Certificates, server: str) -> str:
        ca.write_bytes(certificate.ca.read_bytes())
        if embedded:
            data = {"certificate-authority-data": base64.b64encode(ca.read_bytes()).decode()}
            return write_kubeconfig(kubeconfig, server, **data)
        return write_kubeconfig(kubeconfig, server, **{"certificate-authority": str(ca)})

    with ApiServer(certificates=first) as api:
        connection = Connection(trust(first, api.url))
        connection.request("GET", ALL)
        api.use_certificates(second)
        api.faults.drop_connections()
        with pytest.raises(ApiError):
            connection.request("GET", ALL)

        trust(second, api.url)

        assert connection.request("GET", ALL).status == 200


@pytest.mark.fault(13)
def test_tls_failure_reads_the_configuration_again(
    certificates: tuple[Certificates, Certificates], tmp_path: Path
) -> None:
    first, second = certificates
    with ApiServer(certificates=first) as api:
        for number, certificate in enumerate(certificates):
            (tmp_path / f"{number}.crt").write_bytes(certificate.ca.read_bytes())
        kubeconfig = tmp_path / "kubeconfig"
        connection = Connection(
            write_kubeconfig(kubeconfig, api.url, **{"certificate-authority": str(tmp_path / "0.crt")})
        )
        connection.request("GET", ALL)
        before = kubeconfig.stat()
        write_kubeconfig(kubeconfig, api.url, **{"certificate-authority": str(tmp_path / "1.crt")})
        os.utime(kubeconfig, ns=(before.st_atime_ns, before.st_mtime_ns))

        api.use_certificates(second)
        api.faults.drop_connections()

        api.wait_until(lambda: api.http.connections == 0)
        assert connection.request("GET", ALL).status == 200


def test_idle_connections_are_dropped_once_the_authority_changes(
    certificates: tuple[Certificates, Certificates], tmp_path: Path
) -> None:
    first, second = certificates
    ca = tmp_path / "ca.crt"
    ca.write_bytes(first.ca.read_bytes())
    with ApiServer(certificates=first) as api:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", api.url, **{"certificate-authority": str(ca)})
        connection = Connection(kubeconfig)
        connection.request("GET", ALL)

        ca.write_bytes(second.ca.read_bytes())

        with pytest.raises(ApiError, match="certificate verify failed"):
            connection.request("GET", ALL)


def test_consecutive_requests_share_one_connection(api: ApiServer, api_connection: Connection) -> None:
    for _ in range(3):
        api_connection.request("GET", ALL)

    assert api.connections == 1


def test_a_refused_connection_raises(tmp_path: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{reserved.getsockname()[1]}")

        with pytest.raises(ApiError, match="no answer") as caught:
            Connection(kubeconfig).request("GET", ALL)

    assert caught.value.status == 0


def test_a_truncated_answer_is_an_error(api: ApiServer, api_connection: Connection) -> None:
    api.preload(app_model(f"m{number}") for number in range(50))
    api.faults.cut_body(2_000)

    with pytest.raises(ApiError, match="no answer"):
        api_connection.request("GET", ALL)


def test_a_server_that_never_answers_is_a_timeout(api: ApiServer, api_connection: Connection) -> None:
    with api.faults.hang(), pytest.raises(ApiError, match=r"[Tt]imed out"):
        api_connection.request("GET", ALL, timeout_seconds=0.2)


def test_an_answer_that_trickles_in_for_ever_is_a_timeout(api: ApiServer, api_connection: Connection) -> None:
    api.preload(app_model(f"m{number}") for number in range(50))
    api.faults.trickle(10, 0.01)

    with pytest.raises(ApiError, match="timed out after 1 s: reading the answer"):
        api_connection.request("GET", ALL, timeout_seconds=1.0)


def test_a_stream_gives_bytes_as_they_come_and_ends_properly(api: ApiServer, api_connection: Connection) -> None:
    api.settings.clock = lambda: time.monotonic() * 10
    with api_connection.open(ALL, {"watch": "1", "timeoutSeconds": "3"}, read_timeout_seconds=5) as stream:
        api.wait_for_watches(1)
        api.apply(app_model("one"))
        first = stream.read()
        rest = b"".join(iter(stream.read, b""))

    assert first.startswith(b'{"type":"ADDED"')
    assert rest == b""
    assert not stream.interrupted


def test_a_stream_that_is_cut_raises_instead_of_ending(api: ApiServer, api_connection: Connection) -> None:
    with api_connection.open(ALL, {"watch": "1"}, read_timeout_seconds=5) as stream:
        api.wait_for_watches(1)
        api.faults.cut_streams()

        with pytest.raises(ApiError, match="no answer"):
            stream.read()


def test_waiting_for_the_head_of_a_stream_is_bounded(api: ApiServer, api_connection: Connection) -> None:
    with api.faults.hang(), pytest.raises(ApiError, match=r"[Tt]imed out"):
        api_connection.open(ALL, {"watch": "1"}, read_timeout_seconds=60, answer_timeout_seconds=0.2)


def test_silence_within_a_stream_may_last_longer_than_the_wait_for_its_head(
    api: ApiServer, api_connection: Connection
) -> None:
    query = {"watch": "1"}
    with api_connection.open(ALL, query, read_timeout_seconds=30, answer_timeout_seconds=0.2) as stream:
        api.wait_for_watches(1)
        threading.Timer(0.5, lambda: api.apply(app_model("one"))).start()

        assert stream.read().startswith(b'{"type":"ADDED"')


def test_silence_that_lasts_too_long_ends_a_stream(api: ApiServer, api_connection: Connection) -> None:
    with (
        api_connection.open(ALL, {"watch": "1"}, read_timeout_seconds=0.2) as stream,
        pytest.raises(ApiError, match=r"[Tt]imed out"),
    ):
        stream.read()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_another_thread_ends_a_blocked_read_at_once(
    certificates: tuple[Certificates, Certificates], tmp_path: Path, tls: bool
) -> None:
    with ApiServer(certificates=certificates[0] if tls else None) as api:
        connection = Connection(str(api.kubeconfig(tmp_path / "kubeconfig")))
        stream = connection.open(ALL, {"watch": "1"}, read_timeout_seconds=BLOCKED_SECONDS)
        reader, results = in_thread(stream.read)

        stream.interrupt()
        reader.join(BLOCKED_SECONDS / 4)

        assert not reader.is_alive()
        assert stream.interrupted
        assert len(results) == 1  # b"" or an ApiError: whoever interrupted knows what it means
        stream.close()


def test_an_interrupt_after_the_end_has_no_effect(api: ApiServer, api_connection: Connection) -> None:
    with api_connection.open(ALL, {}, read_timeout_seconds=5) as stream:
        b"".join(iter(stream.read, b""))
        stream.interrupt()

    assert api_connection.request("GET", ALL).status == 200


def test_an_abort_ends_the_wait_for_an_answer(api: ApiServer, api_connection: Connection) -> None:
    abort = Abort()
    with api.faults.hang():
        waiter, results = in_thread(
            lambda: api_connection.request("GET", ALL, timeout_seconds=BLOCKED_SECONDS, abort=abort)
        )
        api.requests.wait(1)

        abort.set()
        waiter.join(BLOCKED_SECONDS / 4)

        assert not waiter.is_alive()
        assert isinstance(results[0], ApiError)


def test_an_abort_ends_a_connect_that_hangs(deaf_port: int, tmp_path: Path) -> None:
    connection = Connection(write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{deaf_port}"))
    abort = Abort()
    waiter, results = in_thread(lambda: connection.request("GET", ALL, abort=abort))
    time.sleep(0.1)  # most likely within the connect by now; the test holds if it is not

    abort.set()
    waiter.join(BLOCKED_SECONDS / 10)

    assert not waiter.is_alive()
    assert isinstance(results[0], ApiError)


def test_an_abort_ends_a_stream_that_is_open(api: ApiServer, api_connection: Connection) -> None:
    abort = Abort()
    stream = api_connection.open(ALL, {"watch": "1"}, read_timeout_seconds=BLOCKED_SECONDS, abort=abort)
    reader, _ = in_thread(stream.read)

    abort.set()
    reader.join(BLOCKED_SECONDS / 4)

    assert not reader.is_alive()
    assert stream.interrupted
    stream.close()


def test_an_abort_that_was_set_before_sends_nothing(api: ApiServer, api_connection: Connection) -> None:
    abort = Abort()
    abort.set()

    with pytest.raises(ApiError, match="ended by the caller"):
        api_connection.request("GET", ALL, abort=abort)

    assert not list(api.requests)


def test_a_connection_made_after_an_abort_is_closed(api: ApiServer, api_connection: Connection) -> None:
    abort = Abort()
    with api.faults.delay(0.3):
        waiter, _ = in_thread(
            lambda: api_connection.open(ALL, {"watch": "1"}, read_timeout_seconds=BLOCKED_SECONDS, abort=abort)
        )
        api.requests.wait(1)
        abort.set()
        waiter.join(BLOCKED_SECONDS / 4)

    api.wait_until(lambda: api.http.connections == 0 and api.open_watches() == 0)


def test_the_kernel_closes_a_dead_peers_connection_within_30_s(api: ApiServer, api_connection: Connection) -> None:
    def option(stream: Stream, name: str, level: int = socket.IPPROTO_TCP) -> int:
        connection: Any = stream._response.connection
        return int(connection.sock.getsockopt(level, getattr(socket, name)))

    with api_connection.open(ALL, {"watch": "1"}, read_timeout_seconds=5) as stream:
        assert option(stream, "SO_KEEPALIVE", socket.SOL_SOCKET)
        idle = option(stream, "TCP_KEEPIDLE") + option(stream, "TCP_KEEPCNT") * option(stream, "TCP_KEEPINTVL")
        assert 0 < idle < 30
        assert 0 < option(stream, "TCP_USER_TIMEOUT") == USER_TIMEOUT_MILLISECONDS < 30_000


def test_no_token_is_ever_logged_or_shown(api: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    connection = Connection(str(api.kubeconfig(tmp_path / "kubeconfig")))
    told: list[str] = [repr(connection), repr(vars(connection))]
    connection.request("GET", ALL)
    api.auth.rotate("a-fresh-secret")
    for path in (ALL, "/nothing", ALL):
        with pytest.raises(ApiError) as caught:
            connection.request("GET", path)
        api.faults.refuse()
        told += [str(caught.value), repr(caught.value), repr(vars(caught.value))]

    assert caplog.records
    secrets = ("test-token", "a-fresh-secret")
    assert not [text for text in (caplog.text, *told) for secret in secrets if secret in text]
