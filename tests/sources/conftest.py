"""A fast test server and a connection to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmroute.kube.connection import Connection
from tests.apiserver import ApiServer
from tests.sources.kubernetes.following import fast_settings


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer(settings=fast_settings()) as server:
        yield server


@pytest.fixture
def connection(api: ApiServer, tmp_path: Path) -> Iterator[Connection]:
    with contextlib.closing(Connection(str(api.kubeconfig(tmp_path / "kubeconfig")))) as made:
        yield made


class Clock:
    """A clock that the test sets."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()
