"""`import shmroute` and the first look-up load only the worker's half."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import shmroute
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


LOOK_UP = {
    *("shmroute", "shmroute.errors", "shmroute.kinds", "shmroute.native", "shmroute.shm", "shmroute.worker"),
    *(f"shmroute.shm.{name}" for name in ("control", "fences", "hashing", "layout", "names", "posix", "reader")),
    *(f"shmroute.shm.{name}" for name in ("register", "segment", "trust")),
    *(f"shmroute.worker.{name}" for name in ("binding", "default", "environment", "forks", "lookup", "position")),
    *(f"shmroute.worker.{name}" for name in ("reader", "routes", "row_cache")),
}
"""The modules of shmroute that a look-up needs. Each further one would cost every worker time and memory."""

STANDARD = {
    *("_struct", "_weakrefset", "errno", "fcntl", "mmap", "struct", "threading", "weakref", "zlib"),
}
"""Modules of the standard library that a look-up needs and msgspec may not have loaded."""


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


def test_first_look_up_loads_only_what_a_look_up_needs(area: str) -> None:
    route = ("model", "v-1", "app", "v-2", "namespace", "appmodel", ())
    code = f"import shmroute; assert shmroute.Reader({area!r}).resolve('model').app == 'app'"
    with Publisher(area) as publisher:
        publisher.replace({(Kind.MODEL, "model"): encode(route)})
        loaded = loaded_by(code)
    assert of_those(loaded, HEAVY | WATCHER_SIDE) == set()
    assert of_those(loaded, {"shmroute"}) - {"shmroute._native"} == LOOK_UP
    assert loaded - loaded_by("import msgspec") - of_those(loaded, {"shmroute"}) <= STANDARD


@pytest.mark.parametrize("name", ["App", "Endpoint", "Snapshot", "Table"])
def test_a_class_that_no_look_up_needs_is_loaded_at_its_first_use(name: str) -> None:
    used = f"import shmroute; assert {name!r} in dir(shmroute); shmroute.{name}"
    assert loaded_by(used) > loaded_by("import shmroute")


def test_a_name_that_the_package_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'shmroute' has no attribute 'missing'"):
        shmroute.missing  # noqa: B018


def test_connection_by_a_kubeconfig_does_not_load_the_official_client(tmp_path: Path) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    code = f"import shmroute.watcher.build; from shmroute.kube import Connection; Connection({kubeconfig!r})"
    loaded = loaded_by(code)
    assert "urllib3" in loaded
    assert of_those(loaded, {"aiohttp", "kubernetes", "pydantic", "requests"}) == set()


@pytest.mark.parametrize("name", sorted(HEAVY & {"kubernetes", "redis", "yaml"}))
def test_the_check_notices_a_heavy_import(name: str) -> None:
    assert name in of_those(loaded_by(f"import {name}"), HEAVY)
