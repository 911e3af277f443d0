"""The proxy to a server: its choice, and requests through a real one with user and password."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shmroute.errors import ApiError, ConfigError
from shmroute.kube.connection import Connection
from shmroute.kube.proxy import Proxy, find_proxy
from tests.apiserver import Certificates, make_certificates
from tests.kube.peers import listening, proxy, recorder, write_kubeconfig

SERVER = "https://api.cluster.example:6443"
PATH = "/apis/iidp.com/v1/appmodels"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ({"https_proxy": "http://p:3128"}, "http://p:3128"),
        ({"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:1"}, "http://upper:1"),
        ({"HTTPS_PROXY": "p:3128"}, "http://p:3128"),
        ({"HTTPS_PROXY": "p"}, "http://p:80"),
        ({"HTTPS_PROXY": "https://p"}, "https://p:443"),
        ({"HTTPS_PROXY": "http://[::1]:3128/"}, "http://[::1]:3128"),
        ({"HTTP_PROXY": "http://p:3128"}, None),
        ({"ALL_PROXY": "http://p:3128"}, None),
    ],
)
def test_the_environment_names_a_proxy_for_the_scheme(environment: dict[str, str], expected: str | None) -> None:
    found = find_proxy(SERVER, "", environment)
    assert (found and found.url) == expected


@pytest.mark.parametrize(
    ("no_proxy", "server", "direct"),
    [
        ("*", SERVER, True),
        ("cluster.example", SERVER, True),
        (".cluster.example", SERVER, True),
        ("*.cluster.example", SERVER, True),
        (" other , API.cluster.example ", SERVER, True),
        ("api.cluster.example:6443", SERVER, True),
        ("api.cluster.example:443", SERVER, False),
        ("luster.example", SERVER, False),
        (".api.cluster.example", SERVER, False),
        ("", SERVER, False),
        ("10.0.0.0/8", "https://10.96.0.1", True),
        ("10.0.0.0/8", "https://11.96.0.1", False),
        ("10.96.0.1", "https://10.96.0.1", True),
        ("10.96.0.1:443", "https://10.96.0.1", True),
        ("10.96.0.1:6443", "https://10.96.0.1", False),
        ("fd00::/8", "https://[fd00::1]:6443", True),
        ("fd00::1", "https://[fd00::1]:6443", True),
        ("[fd00::1]:6443", "https://[fd00::1]:6443", True),
        ("10.0.0.0/99", "https://10.96.0.1", False),
        ("", "https://localhost:6443", True),
        ("", "https://127.8.0.1:6443", True),
        ("", "https://[::1]:6443", True),
    ],
)
def test_no_proxy_is_read_as_go_reads_it(no_proxy: str, server: str, direct: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        assert (find_proxy(server, "", {"HTTPS_PROXY": "p:1", name: no_proxy}) is None) is direct


def test_the_proxy_of_a_kubeconfig_is_always_used() -> None:
    environment = {"HTTPS_PROXY": "http://other:1", "NO_PROXY": "*"}
    assert find_proxy("https://127.0.0.1:6443", "http://p:3128", environment) == Proxy("http://p:3128")


def test_user_and_password_become_a_header_and_leave_the_url() -> None:
    found = find_proxy(SERVER, "http://jane:p%40ss%3a@p:3128", {})
    assert found == Proxy("http://p:3128", "Basic amFuZTpwQHNzOg==")


@pytest.mark.parametrize(
    "url", ["socks5://p:1", "socks5h://u:secret@p:1", "ftp://p", "http://", "http://p:x", "http://p p"]
)
@pytest.mark.parametrize("by", ["kubeconfig", "environment"])
def test_the_error_for_a_bad_proxy_names_where_it_is_configured(url: str, by: str) -> None:
    with pytest.raises(ConfigError, match="proxy-url" if by == "kubeconfig" else "HTTPS_PROXY") as caught:
        find_proxy(SERVER, url if by == "kubeconfig" else "", {"HTTPS_PROXY": url} if by == "environment" else {})
    assert "secret" not in str(caught.value)


# -- through a real one


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def behind(certificates: Certificates) -> Iterator[tuple[int, list[list[str]]]]:
    """Yield a server's port, and the requests that have come to it."""
    heads: list[list[str]] = []
    with listening(recorder(heads), certificates.context()) as port:
        yield port, heads


def kubeconfig(folder: Path, certificates: Certificates, **cluster: Any) -> str:
    """Write the kubeconfig of a server whose name only the proxy can resolve."""
    trust = {"certificate-authority": str(certificates.ca), "tls-server-name": "localhost"}
    return write_kubeconfig(folder / "kubeconfig", SERVER, cluster={**trust, **cluster})


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_requests_go_through_a_proxy_with_its_password(
    behind: tuple[int, list[list[str]]], certificates: Certificates, tmp_path: Path, tls: bool
) -> None:
    port, heads = behind
    asked: list[list[str]] = []
    with listening(proxy(port, asked, "jane:p@ss"), certificates.context() if tls else None) as proxy_port:
        url = f"{'https' if tls else 'http'}://jane:p%40ss@localhost:{proxy_port}"
        connection = Connection(kubeconfig(tmp_path, certificates, **{"proxy-url": url}))
        for _ in range(2):
            assert connection.request("GET", PATH).status == 200
        connection.close()
    assert [head[0].split()[:2] for head in asked] == [["CONNECT", "api.cluster.example:6443"]]
    assert len(heads) == 2
    assert not [line for head in heads for line in head if line.startswith("Proxy-")]


def test_requests_go_through_the_proxy_of_the_environment(
    behind: tuple[int, list[list[str]]], certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, heads = behind
    asked: list[list[str]] = []
    with listening(proxy(port, asked)) as proxy_port:
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy_port}")
        Connection(kubeconfig(tmp_path, certificates)).request("GET", PATH)
    assert len(asked) == len(heads) == 1


def test_a_wrong_proxy_password_is_reported_without_it(
    behind: tuple[int, list[list[str]]], certificates: Certificates, tmp_path: Path
) -> None:
    with listening(proxy(behind[0], [], "jane:right")) as proxy_port:
        url = f"http://jane:wrong@127.0.0.1:{proxy_port}"
        connection = Connection(kubeconfig(tmp_path, certificates, **{"proxy-url": url}))
        with pytest.raises(ApiError, match=r"the proxy did not connect us: .*407") as caught:
            connection.request("GET", PATH)
    assert "wrong" not in str(caught.value)
