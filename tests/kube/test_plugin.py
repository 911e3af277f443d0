"""Exec plugins: run again after a failure, killed when they hang, and never skipped by accident."""

from __future__ import annotations

import base64
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shmroute.errors import ApiError, ConfigError
from shmroute.kube import plugin
from shmroute.kube.connection import Connection
from tests.apiserver import ApiServer, Certificates, make_certificates
from tests.kube.peers import listening, recorder, write_kubeconfig
from tests.kube.plugins import API_VERSION, Plugin, credential
from tests.processes import is_running, running
from tests.watcher.running import wait_for

PATH = "/apis/iidp.com/v1/appmodels"


@pytest.fixture
def script(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def connection(api: ApiServer, script: Plugin, tmp_path: Path) -> Connection:
    return Connection(write_kubeconfig(tmp_path / "kubeconfig", api.url, user=script.config()))


@pytest.mark.fault(13)
def test_a_failed_plugin_is_retried_and_no_request_is_sent_meanwhile(
    api: ApiServer, script: Plugin, connection: Connection
) -> None:
    script.does("echo no network >&2; exit 3")
    for _ in range(2):
        with pytest.raises(ApiError, match="ended with status 3: no network") as caught:
            connection.request("GET", PATH)
        assert (caught.value.status, caught.value.reason) == (0, "Credentials")
    assert not list(api.requests)

    script.gives(token=api.auth.token)
    assert connection.request("GET", PATH).status == 200
    assert script.runs == 3


def test_a_plugin_runs_once_for_many_requests(api: ApiServer, script: Plugin, connection: Connection) -> None:
    script.gives(token=api.auth.token)
    for _ in range(5):
        connection.request("GET", PATH)
    assert script.runs == 1


def test_an_expired_credential_is_requested_again(api: ApiServer, script: Plugin, connection: Connection) -> None:
    script.gives(token=api.auth.token, expirationTimestamp="2020-01-01T00:00:00Z")
    connection.request("GET", PATH)
    connection.request("GET", PATH)
    assert script.runs == 2


def test_a_refused_credential_is_requested_again_once(api: ApiServer, script: Plugin, connection: Connection) -> None:
    script.gives(token="old")
    with pytest.raises(ApiError, match="401"):
        connection.request("GET", PATH)
    assert script.runs == 2

    script.gives(token=api.auth.token)
    assert connection.request("GET", PATH).status == 200


@pytest.mark.fault(13)
def test_a_failing_plugin_never_leads_to_anonymous_requests(
    api: ApiServer, script: Plugin, connection: Connection
) -> None:
    script.gives(token=api.auth.token)
    connection.request("GET", PATH)
    api.auth.rotate()
    script.does("exit 1")
    api.requests.clear()

    for _ in range(2):
        with pytest.raises(ApiError):
            connection.request("GET", PATH)
    assert all("authorization" in request.headers for request in api.requests)

    script.gives(token=api.auth.token)
    assert connection.request("GET", PATH).status == 200


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("no json", "not an ExecCredential"),
        ("{}", "not an ExecCredential"),
        ('{"apiVersion": 1}', "not an ExecCredential"),
        (credential(api_version="client.authentication.k8s.io/v1beta1", token="t"), "v1beta1 ExecCredential"),
        (credential(kind="Secret", token="t"), "v1 Secret"),
        (credential(), "neither a token nor a client certificate"),
        (credential(token=""), "neither a token nor a client certificate"),
        (credential(clientCertificateData="c"), "only one of"),
        (credential(token="t", expirationTimestamp="2020-01-01T00:00:00"), "no time zone"),
        (credential(token="t", expirationTimestamp="soon"), "not an ExecCredential"),
        (credential(token="a\nX-More: b"), "control characters"),
    ],
)
def test_plugin_output_that_is_not_a_credential_is_refused(
    api: ApiServer, script: Plugin, connection: Connection, output: str, problem: str
) -> None:
    script.does(f"cat <<'END'\n{output}\nEND")
    with pytest.raises(ApiError, match=problem):
        connection.request("GET", PATH)
    assert not list(api.requests)


@pytest.mark.fault(13)
def test_a_hanging_plugin_is_killed_with_its_children(
    script: Plugin, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "RUN_SECONDS", 0.5)
    script.does("sleep 600")
    with pytest.raises(ApiError, match=r"exec plugin .*gave no answer within 0\.5 s"):
        connection.request("GET", PATH)
    [pid] = script.pids()
    wait_for(lambda: not is_running(pid))
    wait_for(lambda: not any(os.getsid(other) == pid for other in running() if is_running(other)))


def test_request_waits_for_a_plugin_no_longer_than_its_deadline(
    api: ApiServer, script: Plugin, connection: Connection
) -> None:
    script.does(f"sleep 1\ncat <<'END'\n{credential(token=api.auth.token)}\nEND")
    with pytest.raises(ApiError, match=r"timed out after 0\.2 s: waiting for the credentials"):
        connection.request("GET", PATH, timeout_seconds=0.2)
    assert connection.request("GET", PATH).status == 200
    assert script.runs == 1  # what the first request began was not in vain


def test_requests_that_wait_for_one_run_share_its_failure(script: Plugin, connection: Connection) -> None:
    script.does("sleep 0.5; exit 1")
    failures: list[ApiError] = []

    def ask() -> None:
        try:
            connection.request("GET", PATH)
        except ApiError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(failures) == 5
    assert script.runs < 5


@pytest.mark.fault(13)
def test_a_plugin_that_never_stops_writing_is_ended(script: Plugin, connection: Connection) -> None:
    script.does("exec yes")
    with pytest.raises(ApiError, match="wrote more than"):
        connection.request("GET", PATH)


def test_a_missing_plugin_is_reported_with_its_install_hint(api: ApiServer, tmp_path: Path) -> None:
    missing = {
        "apiVersion": API_VERSION,
        "command": "no-such-plugin",
        "installHint": "get it",
        "interactiveMode": "Never",
    }
    connection = Connection(write_kubeconfig(tmp_path / "kubeconfig", api.url, user={"exec": missing}))
    with pytest.raises(ApiError, match=r"'no-such-plugin': it cannot be started: .*\(get it\)"):
        connection.request("GET", PATH)


def test_an_interactive_plugin_needs_a_terminal(api: ApiServer, script: Plugin, tmp_path: Path) -> None:
    user = script.config(interactiveMode="Always")
    connection = Connection(write_kubeconfig(tmp_path / "kubeconfig", api.url, user=user))
    script.gives(token=api.auth.token)
    with pytest.raises(ApiError, match="standard input is not a terminal"):
        connection.request("GET", PATH)


def test_a_plugin_gets_the_standard_input_it_requires(api: ApiServer, script: Plugin, tmp_path: Path) -> None:
    script.gives(token=api.auth.token)
    cluster = {"extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "a"}}]}
    environment = [{"name": "GREETING", "value": "hello"}]
    user = script.config(provideClusterInfo=True, env=environment, args=["one"])
    script.does(f"test \"$GREETING $1\" = 'hello one' && cat <<'END'\n{credential(token=api.auth.token)}\nEND")
    Connection(write_kubeconfig(tmp_path / "kubeconfig", api.url, user=user, cluster=cluster)).request("GET", PATH)

    info = json.loads(script.info_file.read_text())
    assert info == {
        "apiVersion": API_VERSION,
        "kind": "ExecCredential",
        "spec": {"interactive": False, "cluster": {"server": api.url, "config": {"audience": "a"}}},
    }


def test_a_plugins_certificate_is_presented_and_replaced_by_a_new_one(tmp_path: Path, script: Plugin) -> None:
    first, second = (make_certificates(tmp_path, name) for name in ("first", "second"))
    context = first.context()
    for each in (first, second):
        context.load_verify_locations(each.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    shown: list[bytes] = []

    def serve(sock: Any) -> None:
        shown.append(sock.getpeercert(binary_form=True))
        recorder([])(sock)

    def gives(pair: Certificates) -> None:
        script.gives(
            clientCertificateData=pair.certificate.read_text(),
            clientKeyData=pair.key.read_text(),
            expirationTimestamp="2020-01-01T00:00:00Z",
        )

    with listening(serve, context) as port:
        authority = {"certificate-authority-data": base64.b64encode(first.ca.read_bytes()).decode()}
        url = f"https://127.0.0.1:{port}"
        connection = Connection(write_kubeconfig(tmp_path / "kubeconfig", url, cluster=authority, user=script.config()))
        for pair in (first, first, second):
            gives(pair)
            connection.request("GET", PATH)
        connection.close()
    assert len(shown) == 2
    assert shown[0] != shown[1]


def test_a_running_plugin_ends_when_its_process_is_killed(script: Plugin, tmp_path: Path) -> None:
    script.does("exec sleep 600")
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1", user=script.config())
    code = f"from shmroute.kube import Connection; Connection({kubeconfig!r}).request('GET', '/version')"
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: script.runs == 1)
    [pid] = script.pids()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    wait_for(lambda: not is_running(pid))


def test_secrets_of_a_plugin_are_not_logged_or_printed(
    script: Plugin, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    script.gives(token="hunter2", clientCertificateData="hunter2")
    with pytest.raises(ApiError) as caught:
        connection.request("GET", PATH)
    assert "hunter2" not in str(caught.value) + caplog.text
    assert isinstance(caught.value.__cause__, ConfigError)
