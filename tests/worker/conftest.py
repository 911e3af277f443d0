"""Tests that look up through `Reader` run over both twins of the look-up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shmroute.worker import similar_names
from tests.routing import RoutesArea
from tests.shm.conftest import small_segments as small_segments
from tests.twins import BOTH, reader_type

OVER_BOTH = ("test_changes", "test_endpoints", "test_lookup", "test_reader", "test_tables")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in OVER_BOTH:
        metafunc.fixturenames.insert(0, "twin")  # before any fixture that makes a reader
        metafunc.parametrize("twin", BOTH, indirect=True)


@pytest.fixture
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the twin that this test's `Reader` is on: "plain" or "native"."""
    name: str = request.param
    monkeypatch.setattr(request.module, "Reader", reader_type(name), raising=False)
    return name


@pytest.fixture
def ample_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the searches for similar names a minute: on a busy machine earlier ones may have used the time up."""
    monkeypatch.setattr(similar_names, "SCAN_SECONDS", 60.0)
    monkeypatch.setattr(similar_names, "_budget", similar_names._Budget())


@pytest.fixture
def given(area: str) -> Iterator[RoutesArea]:
    """Yield an area whose rows the test publishes."""
    with RoutesArea(area) as made:
        yield made
