"""Choice of the cluster, and the error if none is configured."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest
import yaml

from shmroute.errors import ConfigError
from shmroute.kube.connection import Connection


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide every configuration that could be found by accident."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)


def write(path: Path, *, port: int = 1, namespace: str = "") -> Path:
    """Return a kubeconfig of two contexts: "here" (current) and "there", one port further."""
    path.parent.mkdir(parents=True, exist_ok=True)
    here = {"cluster": "here", "user": "u", **({"namespace": namespace} if namespace else {})}
    config = {
        "clusters": [
            {"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}},
            {"name": "there", "cluster": {"server": f"http://127.0.0.1:{port + 1}/"}},
        ],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [
            {"name": "here", "context": here},
            {"name": "there", "context": {"cluster": "there", "user": "u", "namespace": "over-there"}},
        ],
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(config))
    return path


def test_an_explicit_kubeconfig_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write(tmp_path / "env", port=10)))

    assert Connection(str(write(tmp_path / "given", port=20))).host == "http://127.0.0.1:20"


def test_kubeconfig_comes_before_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "home/.kube/config", port=30)
    monkeypatch.setenv("KUBECONFIG", str(write(tmp_path / "env", port=10)))

    assert Connection().host == "http://127.0.0.1:10"


def test_error_without_a_home_directory_names_the_other_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(ConfigError, match="no cluster is configured"):
        Connection()
    with pytest.raises(ConfigError, match=r"kubeconfig ~/mine does not exist"):
        Connection("~/mine")


def test_the_home_directory_is_looked_into_last(tmp_path: Path) -> None:
    write(tmp_path / "home/.kube/config", port=30)

    assert Connection().host == "http://127.0.0.1:30"


def test_several_files_are_merged(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", port=40), write(tmp_path / "b", port=50)

    assert Connection(f"{first}:{second}:{tmp_path / 'missing'}").host == "http://127.0.0.1:40"


def test_the_namespace_is_that_of_the_context(tmp_path: Path) -> None:
    kubeconfig = str(write(tmp_path / "k", namespace="mine"))

    assert Connection(kubeconfig).namespace == "mine"
    assert Connection(kubeconfig, "there").namespace == "over-there"


def test_a_context_without_a_namespace_means_default(tmp_path: Path) -> None:
    assert Connection(str(write(tmp_path / "k"))).namespace == "default"


def test_a_context_is_chosen_by_name(tmp_path: Path) -> None:
    assert Connection(str(write(tmp_path / "k", port=60)), "there").host == "http://127.0.0.1:61"


def test_missing_cluster_configuration_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="--manifests"):
        Connection()


def test_a_context_without_a_kubeconfig_is_refused() -> None:
    with pytest.raises(ConfigError, match="context 'there' cannot be used: there is no such context"):
        Connection(context="there")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing does not exist"):
        Connection(str(tmp_path / "missing"))


def test_a_missing_context_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="context 'nowhere' cannot be used"):
        Connection(str(write(tmp_path / "k")), "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[]", "a: b", "clusters: 1\ncurrent-context: x\ncontexts: 2\nusers: 3"])
def test_a_file_that_is_not_a_kubeconfig_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "k"
    path.write_text(text)

    with pytest.raises(ConfigError, match=str(path)):
        Connection(str(path))
