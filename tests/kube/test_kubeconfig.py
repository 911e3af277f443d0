"""shmroute reads a kubeconfig as kubectl does, or refuses it before anything is sent.

What kubectl does is asked of kubectl itself where it is installed.
"""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shmroute.errors import ConfigError
from shmroute.kube.connection import Connection
from tests.apiserver import Certificates, make_certificates
from tests.kube.peers import listening, recorder, write_kubeconfig
from tests.tools import KUBECTL, needs_kubectl

PATH = "/apis/iidp.com/v1/appmodels"
API = "client.authentication.k8s.io"

PLUGIN = f"""#!/bin/sh
echo '{{"apiVersion":"{API}/v1","kind":"ExecCredential","status":{{"token":"of-the-plugin"}}}}'
"""
EXEC = {"apiVersion": f"{API}/v1", "command": "./plugin", "interactiveMode": "Never"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


class Server:
    """A server that keeps the head of each request, and a folder for its kubeconfig."""

    def __init__(self, port: int, folder: Path, certificates: Certificates, heads: list[list[str]]) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self.folder = folder
        self.certificates = certificates
        self.heads = heads

    def kubeconfig(self, name: str = "kubeconfig", **parts: Any) -> str:
        """Write a kubeconfig that trusts the server, with the given parts changed; None removes a field."""
        cluster = {"certificate-authority": str(self.certificates.ca), **parts.pop("cluster", {})}
        cluster = {key: value for key, value in cluster.items() if value is not None}
        return write_kubeconfig(self.folder / name, self.url, cluster=cluster, **parts)

    def asked(self) -> list[list[str]]:
        return [head for head in self.heads if head[0].startswith(f"GET {PATH}")]

    def identity(self) -> list[str]:
        """Return the identity in the only request for the path since the last call. kubectl sends others too."""
        [head] = self.asked()
        self.heads.clear()
        return sorted(line for line in head if line.lower().startswith(("authorization:", "impersonate-")))


@pytest.fixture
def server(tmp_path: Path, certificates: Certificates) -> Iterator[Server]:
    heads: list[list[str]] = []
    (tmp_path / "plugin").write_text(PLUGIN)
    (tmp_path / "plugin").chmod(0o755)
    (tmp_path / "token").write_text("of-the-file\n")
    (tmp_path / "empty").write_text("")
    (tmp_path / "certificate").write_bytes(certificates.certificate.read_bytes())
    (tmp_path / "key").write_bytes(certificates.key.read_bytes())
    with listening(recorder(heads), certificates.context()) as port:
        yield Server(port, tmp_path, certificates, heads)


def ask(kubeconfig: str) -> None:
    Connection(kubeconfig).request("GET", PATH, timeout_seconds=10)


def ask_by_kubectl(kubeconfig: str) -> subprocess.CompletedProcess[str]:
    assert KUBECTL
    environment = {**os.environ, "KUBECONFIG": kubeconfig}
    command = [KUBECTL, "get", "--raw", PATH, "--request-timeout=10s"]
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )


BEARER = "Authorization: Bearer"
PAIR = {"client-certificate": "certificate", "client-key": "key"}

HONOURED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a token": ({}, [f"{BEARER} test-token"]),
    "null is not set": ({"user": {"token": "t", "as": None, "exec": None, "as-groups": None}}, [f"{BEARER} t"]),
    "a token's file before a token": ({"user": {"token": "t", "tokenFile": "token"}}, [f"{BEARER} of-the-file"]),
    "a token while its file is missing": ({"user": {"token": "t", "tokenFile": "nowhere"}}, [f"{BEARER} t"]),
    "basic authentication": ({"user": {"username": "a", "password": "bö"}}, ["Authorization: Basic YTpiw7Y="]),
    "an exec plugin beside the file": ({"user": {"exec": EXEC}}, [f"{BEARER} of-the-plugin"]),
    "a token before an exec plugin": ({"user": {"token": "t", "exec": EXEC}}, [f"{BEARER} t"]),
    "a client certificate before an exec plugin": ({"user": {**PAIR, "exec": EXEC}}, []),
    "a token before an exec plugin, with a certificate": (
        {"user": {**PAIR, "token": "t", "exec": EXEC}},
        [f"{BEARER} t"],
    ),
    "a password before an exec plugin": (
        {"user": {"username": "a", "password": "b", "exec": EXEC}},
        ["Authorization: Basic YTpi"],
    ),
    "a token's file before an exec plugin": ({"user": {"tokenFile": "token", "exec": EXEC}}, [f"{BEARER} of-the-file"]),
    "impersonation": (
        {
            "user": {
                "token": "t",
                "as": "jane",
                "as-uid": "7",
                "as-groups": ["developers", "admins"],
                "as-user-extra": {"acme.com/project%": ["a", "ü"]},
            }
        },
        [
            f"{BEARER} t",
            "Impersonate-Extra-acme.com%2Fproject%25: a",
            "Impersonate-Extra-acme.com%2Fproject%25: ü",
            "Impersonate-Group: admins",
            "Impersonate-Group: developers",
            "Impersonate-Uid: 7",
            "Impersonate-User: jane",
        ],
    ),
    "a name for the certificate": ({"cluster": {"tls-server-name": "localhost"}}, [f"{BEARER} test-token"]),
    "verification turned off": (
        {"cluster": {"certificate-authority": None, "insecure-skip-tls-verify": True}},
        [f"{BEARER} test-token"],
    ),
    "no compression": ({"cluster": {"disable-compression": True}}, [f"{BEARER} test-token"]),
    "extensions and preferences": (
        {"cluster": {"extensions": [{"name": "tool", "extension": {"a": 1}}]}, "preferences": {"colors": True}},
        [f"{BEARER} test-token"],
    ),
    "without apiVersion and kind": ({"apiVersion": None, "kind": None}, [f"{BEARER} test-token"]),
}


@pytest.mark.parametrize("case", HONOURED)
def test_each_field_is_honoured(server: Server, case: str) -> None:
    parts, expected = HONOURED[case]
    ask(server.kubeconfig(**parts))
    assert server.identity() == expected


@needs_kubectl
@pytest.mark.parametrize("case", HONOURED)
def test_kubectl_sends_the_same_identity(server: Server, case: str) -> None:
    parts, expected = HONOURED[case]
    done = ask_by_kubectl(server.kubeconfig(**parts))
    assert done.returncode == 0, done.stderr
    assert [each.lower() for each in server.identity()] == [each.lower() for each in expected]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a quoted boolean": ({"cluster": {"insecure-skip-tls-verify": "false"}}, "insecure-skip-tls-verify"),
    "a number as token": ({"user": {"token": 1234}}, r"Expected `str`, got `int`.*token"),
    "groups as text": ({"user": {"token": "t", "as": "a", "as-groups": "b"}}, "as-groups"),
    "groups of nobody": ({"user": {"token": "t", "as-groups": ["a"]}}, "need as"),
    "a token and a password": ({"user": {"token": "t", "username": "a", "password": "b"}}, "exclude each other"),
    "a password of nobody": ({"user": {"password": "b"}}, "password needs username"),
    "no credentials": ({"user": {}}, "no credentials"),
    "a user that is not defined": ({"context": {"user": "other"}}, "user 'other' is not defined"),
    "a cluster that is not defined": ({"context": {"cluster": "other"}}, "cluster 'other' is not defined"),
    "a token's file that is missing": ({"user": {"tokenFile": "nowhere"}}, "token file .*nowhere cannot be read"),
    "a token's file that is empty": ({"user": {"tokenFile": "empty"}}, "holds no token"),
    "a certificate without its key": ({"user": {"client-certificate": "token"}}, "given together"),
    "a key that is missing": (
        {"user": {"client-certificate": "token", "client-key": "nowhere"}},
        "client key .*nowhere",
    ),
    "an authority twice": ({"cluster": {"certificate-authority-data": "QQ=="}}, "exclude each other"),
    "an authority that is not verified": ({"cluster": {"insecure-skip-tls-verify": True}}, "exclude each other"),
    "an authority that is no certificate": (
        {"cluster": {"certificate-authority": None, "certificate-authority-data": "QQ=="}},
        "certificate authority cannot be used",
    ),
    "data that is no base64": (
        {"cluster": {"certificate-authority": None, "certificate-authority-data": "%"}},
        "certificate-authority-data is not base64",
    ),
    "another apiVersion": ({"apiVersion": "v2"}, "apiVersion is 'v2'"),
    "another kind": ({"kind": "Pod"}, "kind is 'Pod'"),
    "a name twice": ({"users": [{"name": "u", "user": {"token": t}} for t in "ab"]}, "'u' twice"),
    "a map of clusters": ({"clusters": {"c": {}}}, "clusters is not a list"),
    "an old auth provider": ({"user": {"auth-provider": {"name": "gcp"}}}, "auth-provider is not supported"),
    "a proxy without scheme": ({"cluster": {"proxy-url": "127.0.0.1:1"}}, "proxy-url"),
    "an exec without command": ({"user": {"exec": {**EXEC, "command": ""}}}, "exec.command is missing"),
    "an exec of an old version": ({"user": {"exec": {**EXEC, "apiVersion": f"{API}/v1alpha1"}}}, "exec.apiVersion"),
    "an exec without interactiveMode": ({"user": {"exec": {**EXEC, "interactiveMode": ""}}}, "interactiveMode"),
    "an exec with a quoted boolean": (
        {"user": {"exec": {**EXEC, "provideClusterInfo": "false"}}},
        "provideClusterInfo",
    ),
}

REFUSED_BY_US: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown field of a user": ({"user": {"token": "t", "tokne": "x"}}, "tokne"),
    "an unknown field of a cluster": ({"cluster": {"insecure-skip-tls-verfy": True}}, "insecure-skip-tls-verfy"),
    "an unknown field of an exec": ({"user": {"exec": {**EXEC, "timeout": 1}}}, "timeout"),
    "an unknown field of the file": ({"curent-context": "x"}, "curent-context"),
    "a namespace of no cluster": ({"context": {"namespace": "a,b"}}, "not the name of a namespace"),
    "a proxy for SOCKS": ({"cluster": {"proxy-url": "socks5://127.0.0.1:1"}}, "scheme 'socks5'"),
    "a header within a token": ({"user": {"token": "a\nb"}}, "control characters"),
}
"""Contents that kubectl ignores or accepts, and that shmroute refuses."""


@pytest.mark.fault(52)
@pytest.mark.parametrize("case", [*REFUSED, *REFUSED_BY_US])
def test_unsupported_kubeconfig_fields_are_refused_by_name(server: Server, case: str) -> None:
    parts, problem = (REFUSED | REFUSED_BY_US)[case]
    with pytest.raises(ConfigError, match=problem):
        Connection(server.kubeconfig(**parts))


@needs_kubectl
@pytest.mark.parametrize("case", REFUSED)
def test_kubectl_refuses_the_same(server: Server, case: str) -> None:
    parts, _ = REFUSED[case]
    assert ask_by_kubectl(server.kubeconfig(**parts)).returncode != 0
    assert not server.asked()


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:6443",
        "ftp://127.0.0.1",
        "https://",
        "https://h:99999",
        "https://u:p@h",
        "https://h/?a=b",
        "https://h h",
    ],
)
def test_a_server_that_is_not_a_plain_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="server is not a URL"):
        Connection(write_kubeconfig(tmp_path / "kubeconfig", url))


def test_credentials_are_sent_to_other_machines_by_tls_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="credentials are not sent without TLS"):
        Connection(write_kubeconfig(tmp_path / "kubeconfig", "http://kubernetes.example:8080"))


def test_a_scheme_in_capitals_is_the_same_scheme(server: Server) -> None:
    server.url = server.url.replace("https", "HTTPS")
    ask(server.kubeconfig())
    assert server.identity() == [f"{BEARER} test-token"]


def test_an_embedded_authority_needs_no_file(server: Server) -> None:
    data = base64.encodebytes(server.certificates.ca.read_bytes()).decode()  # of several lines, as some tools write it
    ask(server.kubeconfig(cluster={"certificate-authority": None, "certificate-authority-data": data}))
    assert server.identity() == [f"{BEARER} test-token"]


def test_client_certificates_from_files_and_data_are_presented(tmp_path: Path, certificates: Certificates) -> None:
    shown: list[Any] = []
    context = certificates.context()
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    pair = {"client-certificate": certificates.certificate, "client-key": certificates.key}
    with listening(lambda sock: recorder(shown)(sock), context) as port:
        for user in (
            {name: str(path) for name, path in pair.items()},
            {f"{name}-data": base64.b64encode(path.read_bytes()).decode() for name, path in pair.items()},
        ):
            authority = {"certificate-authority": str(certificates.ca)}
            ask(write_kubeconfig(tmp_path / "kubeconfig", f"https://127.0.0.1:{port}", cluster=authority, user=user))
    assert len(shown) == 2


def test_nothing_depends_on_a_temporary_folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    names = {"certificate-authority": None, "certificate-authority-data": server.certificates.ca}
    data = {name: path and base64.b64encode(path.read_bytes()).decode() for name, path in names.items()}
    pair = {"client-certificate-data": server.certificates.certificate, "client-key-data": server.certificates.key}
    user = {name: base64.b64encode(path.read_bytes()).decode() for name, path in pair.items()}
    before = set(Path("/tmp").iterdir())

    connection = Connection(server.kubeconfig(cluster=data, user=user))
    for _ in range(2):
        connection.request("GET", PATH)
        connection.close()

    made = {path.name for path in set(Path("/tmp").iterdir()) - before if path.is_file()}
    assert not [name for name in made if name.startswith("tmp")]


# -- several files


def test_the_first_file_that_sets_a_value_wins(server: Server) -> None:
    first = server.kubeconfig("first", user={"token": "one"}, **{"current-context": None})
    second = server.kubeconfig("second", user={"token": "two"})
    third = server.kubeconfig("third", user={"token": "three"}, **{"current-context": "other"})
    ask(f"{first}:{second}:{third}")
    assert server.identity() == [f"{BEARER} one"]


@needs_kubectl
def test_kubectl_merges_in_the_same_way(server: Server) -> None:
    first = server.kubeconfig("first", user={"token": "one"}, **{"current-context": None})
    second = server.kubeconfig("second", user={"token": "two"})
    third = server.kubeconfig("third", user={"token": "three"}, **{"current-context": "other"})
    done = ask_by_kubectl(f"{first}:{second}:{third}")
    assert done.returncode == 0, done.stderr
    assert server.identity() == [f"{BEARER} one"]


def test_missing_files_and_empty_elements_are_skipped(server: Server) -> None:
    (server.folder / "blank").write_text("")
    ask(f":{server.folder / 'missing'}:{server.folder / 'blank'}:{server.kubeconfig()}:")
    assert server.identity() == [f"{BEARER} test-token"]


def test_a_kubeconfig_that_appears_later_is_used(server: Server) -> None:
    later = server.folder / "later"
    connection = Connection(f"{later}:{server.kubeconfig()}")
    connection.request("GET", PATH)
    assert server.identity() == [f"{BEARER} test-token"]
    server.kubeconfig("later", user={"token": "later"})
    connection.request("GET", PATH)
    assert server.identity() == [f"{BEARER} later"]


@pytest.mark.parametrize("content", ["{", "[]", "a: b", "clusters: 1", "- a", "users: []\nusers: []"])
def test_one_bad_file_among_good_ones_is_refused(server: Server, content: str) -> None:
    (server.folder / "bad").write_text(content)
    with pytest.raises(ConfigError, match="bad"):
        Connection(f"{server.kubeconfig()}:{server.folder / 'bad'}")


def test_fifos_and_devices_as_kubeconfig_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(ConfigError, match=r"regular file|cannot be read"):
            Connection(str(path))


def test_an_empty_kubeconfig_is_reported_as_missing_or_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    (tmp_path / "blank").write_text("# nothing yet\n")
    with pytest.raises(ConfigError, match="blank is missing or empty"):
        Connection(str(tmp_path / "blank"))
