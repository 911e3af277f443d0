"""Requests to an API server for each followed resource by default, counted on the test server."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shmroute.kube.connection import Connection
from shmroute.sources.kubernetes.timing import PROBE_SECONDS
from tests.apiserver import ApiServer, Settings, app_model
from tests.sources.kubernetes.following import Following, scaled

BY = 20
"""Factor by which all waits are shorter, including the server's."""

REAL_SECONDS = 15.0

REQUESTS_A_SECOND = 0.05
"""Maximum number of requests per second for each followed resource by default, without events."""

WRITES_A_SECOND = 10


@contextlib.contextmanager
def busy(api: ApiServer) -> Iterator[None]:
    """Write another resource 10 times a second on the server's clock; its caches follow at once."""
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(0.05):
            api.bump(WRITES_A_SECOND * BY // 20)
            if api.settings.quiet_bookmarks:
                with api.store.lock:
                    for table in api.store.tables.values():
                        table.cache_revision = api.store.revision

    writing = threading.Thread(target=write)
    writing.start()
    try:
        yield
    finally:
        stop.set()
        writing.join()


@pytest.mark.parametrize(
    ("others", "bookmarks", "resources"),
    [("quiet", True, 1), ("busy", True, 1), ("busy", False, 1), ("busy", True, 10)],
    ids=["a quiet cluster", "a busy one", "a busy one without bookmarks", "ten resources of a busy one"],
)
def test_a_resource_costs_at_most_one_request_in_20_seconds(
    tmp_path: Path, others: str, bookmarks: bool, resources: int
) -> None:
    settings = Settings(clock=lambda: time.monotonic() * BY, quiet_bookmarks=bookmarks)
    with ApiServer(settings=settings) as api, ExitStack() as stack:
        api.apply(app_model("one"))
        kubeconfig = str(api.kubeconfig(tmp_path / "kubeconfig"))
        for _ in range(resources):
            connection = stack.enter_context(contextlib.closing(Connection(kubeconfig)))
            follow = stack.enter_context(Following(connection, timing=scaled(PROBE_SECONDS, BY)))
            follow.wait_synced()
        if others == "busy":
            stack.enter_context(busy(api))
        before, began = len(api.requests), time.monotonic()
        follow.stop.wait(REAL_SECONDS)
        made = list(api.requests)[before:]
        rate = len(made) / ((time.monotonic() - began) * BY) / resources
        kinds = Counter((request.verb, request.query.get("resourceVersion") == "0") for request in made)
        print(f"{rate:.3f} requests a second and resource: {dict(kinds)}; {follow.source.stats}")

        assert made
        assert rate <= REQUESTS_A_SECOND
        assert follow.source.stats.restarts.keys() <= {"ended"}
