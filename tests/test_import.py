"""`import shmroute` and the first look-up load only the worker's half."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shmroute.rows import Kind, encode
from shmroute.shm.writing.publisher import Publisher
from tests.kube.peers import write_kubeconfig

HEAVY = {
    "asyncio",
    "click",
    "concurrent",
    "email",
    "http",
    "importlib.metadata",
    "kubernetes",
    "logging",
    "multiprocessing",
    "orjson",
    "prometheus_client",
    "pytest",
    "redis",
    "socket",
    "ssl",
    "subprocess",
    "urllib3",
    "yaml",
}
"""Each costs every worker process start-up time and memory, and none of them is needed to look a model up."""

WATCHER_SIDE = {
    f"shmroute.{name}"
    for name in (
        "cli",
        "calls",
        "contrib",
        "index",
        "kube",
        "metadata",
        "objects",
        "pytest_plugin",
        "shm.publisher",
        "sources",
        "supervise",
        "testing",
        "watcher",
    )
}


def loaded_by(code: str) -> set[str]:
    """Return the modules that are loaded after `code` in a fresh interpreter, and are not in a bare one."""
    report = "import sys; print(*sys.modules)"
    bare, after = (
        set(subprocess.check_output([sys.executable, "-c", text], text=True, timeout=60).split())
        for text in (report, f"{code}\n{report}")
    )
    return after - bare


def of_those(modules: set[str], named: set[str]) -> set[str]:
    return {module for module in modules if any(module == name or module.startswith(f"{name}.") for name in named)}


def test_import_loads_nothing_heavy_and_nothing_of_the_watcher() -> None:
    assert of_those(loaded_by("import shmroute"), HEAVY | WATCHER_SIDE) == set()


def test_first_look_up_loads_nothing_heavy_and_nothing_of_the_watcher(area: str) -> None:
    route = ("model", "v-1", "app", "v-2", "namespace", "appmodel", ())
    code = f"import shmroute; assert shmroute.Reader({area!r}).resolve('model').app == 'app'"
    with Publisher(area) as publisher:
        publisher.replace({(Kind.MODEL, "model"): encode(route)})
        assert of_those(loaded_by(code), HEAVY | WATCHER_SIDE) == set()


def test_connection_by_a_kubeconfig_does_not_load_the_official_client(tmp_path: Path) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    code = f"import shmroute.watcher.build; from shmroute.kube import Connection; Connection({kubeconfig!r})"
    loaded = loaded_by(code)
    assert "urllib3" in loaded
    assert of_those(loaded, {"aiohttp", "kubernetes", "pydantic", "requests"}) == set()


@pytest.mark.parametrize("name", sorted(HEAVY & {"kubernetes", "redis", "yaml"}))
def test_the_check_notices_a_heavy_import(name: str) -> None:
    assert name in of_those(loaded_by(f"import {name}"), HEAVY)
