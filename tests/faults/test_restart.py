"""The API server restarts, is restored or edits a definition: rows 40 and 41, on the test server and on a real one.

A real one is restarted and restored by the commands that `SHMROUTE_TEST_RESTART` and `SHMROUTE_TEST_RESTORE` hold,
where `SHMROUTE_TEST_KUBECONFIG` names it; each must return when the server has been started again. A
supervisor must start it, since a test ends every process that it has started.
"""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shmroute.kube.connection import Connection
from shmroute.sources.base import Replaced
from shmroute.sources.kubernetes.timing import Timing
from tests.apiserver import ApiServer, app_model
from tests.cluster import Cluster
from tests.sources.kubernetes.following import CALM, Following, scaled

SELECTOR = "iidp=iidp"

BY = 5
"""Factor by which all waits are shorter than in a cluster, in the short form; the server's Retry-After of 1 s stays."""

SHORT = scaled(30.0, BY)

SEEN_SECONDS = 10.0
"""Longest time from the server's first answers until a change is seen, in seconds."""

MEDIAN_SECONDS = 5.0

RETRY_AFTER_SECONDS = 2.0
"""Longest Retry-After of a starting server, with jitter, in seconds."""

ATTEMPTS = 12
"""Maximum number of requests of one resource for one restart: two for each second of the 403, and those around it."""


@pytest.fixture
def quick() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


def restart(api: ApiServer, follow: Following, number: int, down: float, by: float) -> tuple[float, int]:
    """Return the seconds from the server's first 200 until a change is seen, and the requests that it took."""
    asked = len(api.requests)
    ready = api.faults.restart(down / by, starting_seconds=2.0 / by, initializing_seconds=0.1 / by)
    time.sleep(max(0.0, ready - time.monotonic()))
    api.apply(app_model("one", version=f"v{number}"))
    follow.wait(lambda: any(getattr(item, "version", "") == f"v{number}" for item in follow.items.values()), 60.0)
    return time.monotonic() - ready, len(api.requests) - asked


@pytest.mark.fault(41)
def test_a_restarted_server_is_followed_at_once_and_without_a_storm(quick: ApiServer, tmp_path: Path) -> None:
    quick.apply(app_model("one"))
    connection = Connection(str(quick.kubeconfig(tmp_path / "kubeconfig")))
    with closing(connection), Following(connection, timing=SHORT) as follow:
        for number in range(1, 4):
            follow.wait_watched(quick)
            seconds, requests = restart(quick, follow, number, 3.0 * number, BY)

            assert seconds < SEEN_SECONDS / BY + RETRY_AFTER_SECONDS
            assert requests <= ATTEMPTS
        assert follow.names == {"one"}


@pytest.mark.long
@pytest.mark.fault(41)
def test_of_ten_restarts_each_is_followed_within_10_s(
    quick: ApiServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    quick.apply(app_model("one"))
    connection = Connection(str(quick.kubeconfig(tmp_path / "kubeconfig")))
    took = []
    with closing(connection), Following(connection, timing=Timing()) as follow:
        for number in range(1, 11):
            follow.wait_watched(quick)
            seconds, requests = restart(quick, follow, number, 2.0 + number, 1)
            took.append(seconds)
            assert requests <= ATTEMPTS
    record_property("seconds", took)
    print("seconds from the first 200 to the change seen:", *(f"{each:.1f}" for each in took))
    assert statistics.median(took) < MEDIAN_SECONDS
    assert max(took) < SEEN_SECONDS


@pytest.mark.fault(41)
def test_an_edited_definition_costs_one_list_and_no_back_off(api: ApiServer, connection: Connection) -> None:
    for name in ("one", "two"):
        api.apply(app_model(name))
    with Following(connection, timing=CALM) as follow:
        for edits in range(1, 5):
            follow.wait_watched(api)
            follow.stop.wait(2 * CALM.short_watch_seconds)
            api.faults.redefine("appmodels")
            follow.wait(lambda edits=edits: follow.source.stats.restarts.get("gone") == edits)  # type: ignore[misc]
        follow.wait_watched(api)
        api.apply(app_model("three"))
        follow.wait_for(api)

        assert follow.source.stats.lists == 5
        gone = [text for text in follow.source.stats.restarts if text not in ("gone", "http-429", "ended")]
        assert gone == []


@pytest.mark.fault(41)
def test_a_definition_deleted_and_created_again_is_followed(
    api: ApiServer, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=CALM) as follow:
        follow.wait_for(api)
        follow.wait_watched(api)
        api.delete("customresourcedefinitions", "appmodels.iidp.com")
        follow.wait(lambda: "no API group 'iidp.com'" in follow.reason)
        assert follow.names == set()
        assert "0 objects stay as last seen" in caplog.text
        assert "last state stays" not in caplog.text

        api.install()
        api.apply(app_model("two"))
        follow.wait(lambda: follow.names == {"two"})
        follow.wait(lambda: follow.reason == "")


# -- on either cluster


def command(name: str) -> list[str]:
    """Return the command of a variable; skips the test where there is none."""
    text = os.environ.get(name)
    if not text:
        pytest.skip(f"{name} is not set: it holds the command that does so to the real cluster")
    return shlex.split(text)


@pytest.mark.fault(41)
def test_a_cluster_that_restarts_is_followed(cluster: Cluster) -> None:
    cluster.apply(app_model("one"))
    with (
        closing(Connection(str(cluster.kubeconfig))) as connection,
        Following(connection, namespace=cluster.namespace, selector=SELECTOR, timing=Timing()) as follow,
    ):
        follow.wait(lambda: follow.names == {"one"})
        if cluster.server is not None:
            cluster.server.faults.restart(0.2, starting_seconds=0.3)
            cluster.server.wait_until(lambda: _answers(cluster))
        else:
            subprocess.run(command("SHMROUTE_TEST_RESTART"), check=True, timeout=300)
        cluster.apply(app_model("two"))
        began = time.monotonic()
        follow.wait(lambda: follow.names == {"one", "two"}, 60.0)

        assert time.monotonic() - began < SEEN_SECONDS


def _answers(cluster: Cluster) -> bool:
    try:
        cluster.list("AppModel")
    except Exception:  # noqa: BLE001 - whatever the client makes of a server that starts
        return False
    return True


@pytest.mark.fault(40)
def test_a_cluster_that_is_restored_is_followed(cluster: Cluster) -> None:
    """The command restores a snapshot that it took at its first call, with "snapshot" as its argument."""
    restore = [] if cluster.server is not None else command("SHMROUTE_TEST_RESTORE")
    timing = Timing() if cluster.server is None else Timing(compare_spread_seconds=1.0, audit_grace_seconds=0.5)
    cluster.apply(app_model("kept"))
    with (
        closing(Connection(str(cluster.kubeconfig))) as connection,
        Following(connection, namespace=cluster.namespace, selector=SELECTOR, timing=timing) as follow,
    ):
        follow.wait(lambda: follow.names == {"kept"})
        if cluster.server is not None:
            backup = cluster.server.faults.backup()
        else:
            subprocess.run([*restore, "snapshot"], check=True, timeout=300)
        cluster.apply(app_model("lost"))
        follow.wait(lambda: follow.names == {"kept", "lost"})
        if cluster.server is not None:
            cluster.server.faults.restart(0.2, starting_seconds=0.3, restore=backup)
            cluster.server.wait_until(lambda: _answers(cluster))
        else:
            subprocess.run([*restore, "restore"], check=True, timeout=300)
        for number in range(5):
            cluster.apply(app_model("new", version=f"v{number}"))

        follow.wait(lambda: follow.names == {"kept", "new"}, 90.0)
        assert len(follow.of(Replaced)) >= 2
