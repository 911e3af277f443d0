"""The simulation of a fleet counts what a server really gets, and plays 10,000 watchers in under a minute.

The short forms have 8 real watchers and 1,000 simulated ones.
"""

from __future__ import annotations

import contextlib
import json
import time
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from benchmarks.fleet import report
from benchmarks.fleet.server import Request, Scenario
from benchmarks.fleet.simulation import RESTART, SPLIT, Simulation

from shmroute.kube.connection import Connection
from shmroute.sources.kubernetes.timing import PROBE_SECONDS
from tests.apiserver import ApiServer, Settings, app_model
from tests.sources.kubernetes.following import Following, scaled

BY = 10
"""Factor by which the real watchers run faster than in a cluster."""

DOWN_SECONDS = 5.0

QUIET = {"resources": 1, "changes_a_second": 0.0, "others_a_second": 0.0}
NEVER = {"split_at": float("inf"), "rollout_at": float("inf")}


def counted(api: ApiServer) -> dict[Request, int]:
    """Count the requests of a test server by the simulation's kinds, without refused ones."""
    counts = dict.fromkeys(Request, 0)
    for request in list(api.requests):
        if request.status >= 400:
            continue
        if "sendInitialEvents" in request.query:
            counts[Request.LIST] += 1
        elif request.verb == "watch":
            counts[Request.WATCH] += 1
        elif "fieldSelector" in request.query:
            cache = request.query.get("resourceVersion") == "0"
            counts[Request.CACHE if cache else Request.QUORUM] += 1
        elif request.verb == "list":
            counts[Request.COMPARE] += 1
    return counts


@pytest.mark.parametrize("watchers", [8, pytest.param(32, marks=pytest.mark.long)])
def test_the_simulation_counts_what_the_test_server_gets(tmp_path: Path, watchers: int) -> None:
    seconds, restart = 240.0, 120.0
    with ApiServer(settings=Settings(clock=lambda: time.monotonic() * BY)) as api, ExitStack() as stack:
        api.apply(app_model("one"))
        kubeconfig = str(api.kubeconfig(tmp_path / "kubeconfig"))
        connections = [stack.enter_context(contextlib.closing(Connection(kubeconfig))) for _ in range(watchers)]
        began = time.monotonic()
        for connection in connections:
            follow = stack.enter_context(Following(connection, timing=scaled(PROBE_SECONDS, BY)))
        started = (time.monotonic() - began) * BY
        follow.stop.wait(began + restart / BY - time.monotonic())
        api.faults.restart(DOWN_SECONDS / BY, starting_seconds=2.0 / BY, initializing_seconds=0.1 / BY)
        follow.stop.wait(began + seconds / BY - time.monotonic())
        real = counted(api)
    scenario = Scenario(watchers=watchers, seconds=seconds, restart_at=restart, restart_seconds=DOWN_SECONDS)
    scenario = msgspec.structs.replace(scenario, **QUIET, **NEVER, start_seconds=started)
    simulated = Simulation(scenario).run().server
    print({kind.value: (simulated.total(kind), real[kind]) for kind in Request})

    total = sum(simulated.total(kind) for kind in Request if kind is not Request.REFUSED)
    assert abs(sum(real.values()) - total) <= 0.1 * total
    assert simulated.total(Request.LIST) == real[Request.LIST] == 2 * watchers


@pytest.mark.parametrize("watchers", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_ten_thousand_watchers_are_simulated_in_under_a_minute(watchers: int) -> None:
    began = time.process_time()
    outcome = Simulation(Scenario(watchers=watchers, seconds=700.0, **NEVER)).run()  # type: ignore[arg-type]

    assert time.process_time() - began < 60.0 * watchers / 10_000
    assert outcome.server.most_open == 2 * watchers
    assert outcome.server.rate(100, 400) < 0.05 * 2 * watchers
    assert outcome.staleness(RESTART).max < 5.0 + 10.0  # away, then at most that


def test_after_a_network_split_each_watcher_cut_off_compares_once() -> None:
    scenario = Scenario(watchers=30, restart_at=float("inf"), rollout_at=float("inf"))
    outcome = Simulation(scenario).run()

    assert outcome.server.total(Request.COMPARE) == 10 * scenario.resources
    assert outcome.server.total(Request.LIST) == 30 * scenario.resources
    assert outcome.staleness(SPLIT).max < scenario.split_seconds + 15.0


def test_overloaded_server_refuses_watchers_and_all_sync_in_the_end() -> None:
    scenario = Scenario(watchers=200, seats=2, objects=20_000, rollout_at=float("inf"), split_at=float("inf"))
    outcome = Simulation(scenario).run()

    assert outcome.server.total(Request.REFUSED) > 0
    assert outcome.server.peak_lists == 2
    assert outcome.server.open == 200 * scenario.resources


def test_figures_plot_and_page_are_written(tmp_path: Path) -> None:
    page = tmp_path / "scaling.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nbehind\n")
    runs = [report.run(name, watchers, 1) for name, watchers in (("pod", 20), ("node", 2))]
    report.write(runs, tmp_path)

    assert page.read_text().startswith(f"before\n{report.BEGIN}\n")
    assert page.read_text().endswith(f"{report.END}\nbehind\n")
    assert "old" not in page.read_text()
    assert ElementTree.fromstring((tmp_path / "scaling.svg").read_text()).tag.endswith("svg")
    assert len(json.loads((tmp_path / "scaling.json").read_text())["runs"]) == 2


def test_the_page_shows_the_figures_stored_beside_it() -> None:
    kept = msgspec.json.decode((report.DOCS / "scaling.json").read_bytes(), type=report.Figures)

    assert report.table(kept.runs) in (report.DOCS / "scaling.md").read_text()
    assert report.plot(kept.runs) == (report.DOCS / "scaling.svg").read_text()
