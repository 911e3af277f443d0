"""Contradictory or empty options are refused before anything is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shmroute.errors import ConfigError
from shmroute.watcher.build import build
from shmroute.watcher.options import WatchOptions


@pytest.mark.fault(52)
@pytest.mark.parametrize(
    "name", ["manifests", "kubeconfig", "context", "tables", "redis", "metadata", "checkpoint", "group"]
)
def test_an_empty_option_is_refused_not_ignored(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"manifests": str(tmp_path), name: ""}
    with pytest.raises(ConfigError, match=f"--{name} is empty"):
        build(WatchOptions(**options))


@pytest.mark.parametrize("port", ["0", "70000", "-1", "http ", "HTTP", "a_b", "8080/tcp"])
def test_an_impossible_port_is_refused(port: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--port"):
        build(WatchOptions(manifests=str(tmp_path), port=port))


@pytest.mark.parametrize("port", ["", "http", "8080", "65535", "grpc-web"])
def test_a_port_is_given_by_name_or_number(port: str, tmp_path: Path) -> None:
    build(WatchOptions(manifests=str(tmp_path), port=port))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"namespaces": ("a",), "all_namespaces": True}, "exclude each other"),
        ({"namespaces": ("a b",)}, "not a namespace's name"),
        ({"namespaces": ("a", "b")}, "takes one -n"),
        ({"kubeconfig": "x"}, "without --kubeconfig"),
        ({"redis": "redis://h", "metadata": "folder"}, "exclude each other"),
        ({"selector": "a in"}, "label selector"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        build(WatchOptions(manifests=str(tmp_path), **options))
