"""What all tests share: private areas, clusters to run against, and the check that nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from tests.leftovers import new_area, nothing_left, remove_area, segments, strays
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from tests.cluster import Cluster  # loads the official client: not before a test needs it

REAL_CLUSTER = os.environ.get("SHMROUTE_TEST_KUBECONFIG")
"""A kubeconfig: tests with the fixture `cluster` run against that cluster too, each in a namespace of its own."""

# A shell that starts a run in the background ignores SIGINT and SIGQUIT, nohup ignores SIGHUP, and all that a test
# starts would inherit it. Whatever is executed has no handlers, so with one the run still outlives its terminal.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, lambda *_: None),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# The user's own settings and area stay out of every test: after the README's tour the area "default" is still there.
_OF_TESTS = ("SHMROUTE_TEST", "SHMROUTE_PURE", "SHMROUTE_SEED", "SHMROUTE_REDIS_SERVER", "SHMROUTE_DIR")
for _name in list(os.environ):
    if _name.startswith("SHMROUTE_") and not _name.startswith(_OF_TESTS):
        del os.environ[_name]
os.environ["SHMROUTE_AREA"] = new_area()

# No deadline: nothing is asserted on wall time. The same examples every time; the long tests try others.
settings.register_profile("test", deadline=None, derandomize=True)
settings.register_profile("long", deadline=None, print_blob=True)
settings.register_profile(
    "fuzz",
    deadline=None,
    max_examples=20_000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("test")


@given(strategies.none())
def _first_example(_: None) -> None:
    """Have Hypothesis make its generator of random numbers, which the collector must see: it asks who refers to it."""


_SEGMENTS_BEFORE = pytest.StashKey[set[Path]]()
_STRAYS = pytest.StashKey[list[str]]()
_DEFINED_BEFORE = pytest.StashKey[bool]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Record the files of areas before the run, and whether the real cluster has the CRD. xdist's workers skip this."""
    if not hasattr(session.config, "workerinput"):
        session.config.stash[_SEGMENTS_BEFORE] = segments()
        session.config.stash[_DEFINED_BEFORE] = not REAL_CLUSTER or _has_definition(REAL_CLUSTER)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without the garbage collector, and have it skip what was collected: a million objects that all stay.

    That takes a tenth less time, and a quarter of a second less for each full run of the collector afterwards, most of
    all in forked children, for which it would copy every page.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        _first_example()
        gc.enable()
        gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that leaves shared memory behind, and remove the real cluster's CRD if the run has installed it.
    xdist's workers have ended by now: it is told first."""
    if (before := session.config.stash.get(_SEGMENTS_BEFORE, None)) is not None:
        session.config.stash[_STRAYS] = found = [*strays(before), *_definition_left(session.config)]
        if found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _has_definition(kubeconfig: str) -> bool:
    from tests.cluster import has_definition

    return has_definition(Path(kubeconfig))


def _definition_left(config: pytest.Config) -> list[str]:
    """Remove the real cluster's CRD if the run has installed it; return what may be left."""
    if not REAL_CLUSTER or config.stash[_DEFINED_BEFORE]:
        return []
    from tests.cluster import remove_definition

    try:
        if _has_definition(REAL_CLUSTER):
            remove_definition(Path(REAL_CLUSTER))
    except Exception as error:  # noqa: BLE001 - whatever the client makes of a cluster that is away
        return [f"the CRD of the real cluster, which cannot be asked ({type(error).__name__})"]
    return []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what the run has left behind."""
    for path in config.stash.get(_STRAYS, []):
        terminalreporter.line(f"ERROR: left behind by the whole run: {path}", red=True)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture
def make_area() -> Iterator[Callable[[], str]]:
    """Yield the names of areas of the test's own; their shared memory goes with the test."""
    areas: list[str] = []

    def make() -> str:
        areas.append(new_area())
        return areas[-1]

    yield make
    for area in areas:
        remove_area(area)


@pytest.fixture
def area(make_area: Callable[[], str]) -> str:
    """Return the name of an area of the test's own; its shared memory goes with the test."""
    return make_area()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Yield a real Redis server of the test's own."""
    with RedisServer() as server:
        yield server


@pytest.fixture(
    params=[
        "test server",
        pytest.param("real", marks=pytest.mark.skipif(not REAL_CLUSTER, reason="SHMROUTE_TEST_KUBECONFIG is not set")),
    ]
)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster that has the CRD, and a namespace in it of the test's own: the test API server, and a real one."""
    from tests.cluster import real_cluster
    from tests.cluster import test_server_cluster as server_cluster

    if request.param == "real":
        assert REAL_CLUSTER
        with real_cluster(Path(REAL_CLUSTER)) as cluster:
            yield cluster
    else:
        with server_cluster(tmp_path / "kubeconfig") as cluster:
            yield cluster
