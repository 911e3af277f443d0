"""Failures of the API server and the network: rows 1 to 16 and 35 of the table of faults."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec
import pytest
import yaml

from shmroute import NotReady
from shmroute.backoff import FIRST_SECONDS
from shmroute.kube.connection import Connection
from shmroute.metadata.folder_store import FolderStore
from shmroute.metadata.loader import MetadataLoader
from shmroute.resources.appmodel import AppModel
from shmroute.sources.base import AuditResult, Changed, Deleted, Replaced, SourceState
from shmroute.sources.kubernetes.reflector import GARBLED_ATTEMPTS
from shmroute.sources.kubernetes.timing import Timing
from shmroute.watcher.metadata_feed import MetadataFeed
from shmroute.worker.changes import Change
from tests.apiserver import ApiServer, Settings, app_model, make_certificates
from tests.apiserver.watches import Watch
from tests.faults.serving import serve
from tests.faults.wires import Forwarder, black_hole
from tests.processes import bound, cpu_seconds
from tests.sources.kubernetes.following import (
    CALM,
    LIVELY,
    WAIT_SECONDS,
    Following,
    fast_settings,
    scaled,
)

IMPATIENT = msgspec.structs.replace(LIVELY, probe_timeout_seconds=0.5, answer_seconds=1.0, list_silence_seconds=1.0)

FIVE = scaled(5.0)
"""Times of `--probe-seconds 5`, all divided by ten, for a server of `fast_settings`."""

REAL_TIMES = Timing(contact_report_seconds=0.0)
"""Times as in a cluster; for the long tests, which print how many seconds each took."""


def server_at(kubeconfig: Path, port: int, *, host: str = "127.0.0.1") -> Connection:
    """Return a connection that goes through another port than the server's own, or another host."""
    config = yaml.safe_load(kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"http://{host}:{port}"
    kubeconfig.write_text(yaml.safe_dump(config))
    return Connection(str(kubeconfig))


def anonymous(api: ApiServer, kubeconfig: Path) -> Connection:
    """Return a connection without credentials, which are not sent to another host without TLS."""
    api.auth.required = False
    config = yaml.safe_load(api.kubeconfig(kubeconfig).read_text())
    config["users"][0]["user"] = {}
    kubeconfig.write_text(yaml.safe_dump(config))
    return Connection(str(kubeconfig))


def waits(follow: Following) -> list[float]:
    """Return the seconds of each wait after a failure, in order."""
    return [state.backoff_seconds for state in follow.of(SourceState) if state.phase == "backing-off"]


def check_backs_off(follow: Following, timing: Timing = CALM) -> None:
    """Assert that each wait is drawn from [d, 2d), with d doubling up to the cap."""
    due = timing.backoff_first_seconds
    assert waits(follow)
    for seconds in waits(follow):
        assert due <= seconds < 2 * due
        due = min(due * 2, timing.backoff_cap_seconds)


def outlast_a_short_watch(follow: Following) -> None:
    """Wait until an end of the open watch no longer counts as a failure."""
    follow.stop.wait(2 * CALM.short_watch_seconds)


def check_resumed(api: ApiServer, follow: Following, resource_version: str) -> None:
    """Assert that the newest watch resumed at this version, and that there was only the first list."""
    [*_, last] = [each for each in api.requests.select("watch") if each.query["timeoutSeconds"] != "3"]
    assert last.query["resourceVersion"] == resource_version
    assert len(follow.of(Replaced)) == follow.source.stats.lists == 1


# -- 1, 2: the API server is down


@pytest.mark.fault(1)
def test_01_api_down_at_start_is_not_ready_and_never_an_empty_table(
    api: ApiServer, connection: Connection, area: str
) -> None:
    api.apply(app_model("iiot", ["iiot_dataservice"]))
    api.faults.refuse()
    with serve(connection, area, CALM) as served:
        while served.source.stats.errors < 5:
            with pytest.raises(NotReady):
                served.reader.resolve("iiot_dataservice")

        api.faults.accept()
        served.reader.wait_ready(WAIT_SECONDS)

        assert served.reader.resolve("iiot_dataservice").app == "iiot"


@pytest.mark.fault(1)
def test_01_api_down_at_start_costs_under_1_percent_of_a_core_and_backs_off(tmp_path: Path, api: ApiServer) -> None:
    with socket.socket() as reserved:  # bound, and nobody listens
        reserved.bind(("127.0.0.1", 0))
        connection = server_at(api.kubeconfig(tmp_path / "kubeconfig"), reserved.getsockname()[1])
        with Following(connection) as follow:
            follow.wait(lambda: follow.source.stats.errors >= 5)
            began, taken, attempts = time.monotonic(), time.process_time(), follow.source.stats.errors
            follow.stop.wait(1.0)
            attempts = follow.source.stats.errors - attempts
            cost = (time.process_time() - taken) / attempts
            assert attempts <= (time.monotonic() - began) / CALM.backoff_cap_seconds + 1

            check_backs_off(follow)
            assert follow.of(Replaced) == []
            assert "no answer" in follow.of(SourceState)[-2].reason + follow.reason
    # In a cluster the shortest wait there is, 0.8 s, lies between two attempts.
    assert cost / FIRST_SECONDS < 0.01


REFUSED_SECONDS = 60.0

CAP = Timing().unreachable_cap_seconds

LATE_SECONDS = 1.0
"""Longest delay until a thread runs on a busy machine, in seconds."""


def are_backoffs(times: list[float], end: float, sources: tuple[tuple[float, float], ...]) -> bool:
    """Whether `times` are attempts of sources that each wait from [d, 2d) after every one, d doubling to the cap.

    `sources` holds of each the time of its last attempt, and its d.
    """
    if not times:
        return all(end - last < 2 * due + LATE_SECONDS for last, due in sources)
    now, *later = times
    return any(
        due - 0.1 < now - last < 2 * due + LATE_SECONDS
        and are_backoffs(later, end, (*sources[:this], (now, min(2 * due, CAP)), *sources[this + 1 :]))
        for this, (last, due) in enumerate(sources)
    )


@pytest.mark.fault(1)
@pytest.mark.long
def test_01_refused_connections_for_60_s_cost_under_1_percent_of_a_core(
    api: ApiServer, tmp_path: Path, area: str
) -> None:
    kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
    with black_hole() as hole:
        config = yaml.safe_load(kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"http://{hole.far}:6443"  # nobody listens there
        config["users"][0]["user"] = {}
        kubeconfig.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "shmroute", "watch", "--kubeconfig", str(kubeconfig), "--area", area]
        watcher = subprocess.Popen(bound(command))
        try:
            times: list[float] = []
            started = 0.0
            for moment in hole.attempts(REFUSED_SECONDS):
                started = started or cpu_seconds(watcher.pid)
                times.append(moment)
            cost = cpu_seconds(watcher.pid) - started
            assert watcher.poll() is None
        finally:
            watcher.terminate()
            watcher.wait(10)
    began, second, *later = times
    print(f"{cost:.2f} s of CPU time in {REFUSED_SECONDS:g} s, {100 * cost / REFUSED_SECONDS:.2f}% of a core")
    print(f"after {started:.2f} s to start; attempts of two sources at", *(f"{each - began:.1f}" for each in times))
    assert cost < 0.01 * REFUSED_SECONDS
    assert are_backoffs(later, began + REFUSED_SECONDS, ((began, FIRST_SECONDS), (second, FIRST_SECONDS)))


@pytest.mark.fault(2)
def test_02_api_down_after_sync_serves_and_resumes_without_a_list(
    api: ApiServer, connection: Connection, area: str
) -> None:
    api.apply(app_model("iiot", ["iiot_dataservice"]))
    with serve(connection, area, LIVELY) as served:
        served.reader.wait_ready(WAIT_SECONDS)
        api.wait_watched()
        revision = str(api.revision)

        api.faults.refuse()
        api.wait_until(lambda: served.source.stats.errors >= 3)
        age = served.reader.age
        api.wait_until(lambda: served.reader.age > age + 1.0)
        assert served.reader.resolve("iiot_dataservice").app == "iiot"
        assert served.reader.stale(1.0)
        asked = len(api.requests)

        api.apply(app_model("moved", ["another"]))
        api.faults.accept()
        api.wait_until(lambda: served.reader.get("another") is not None)
        api.wait_until(lambda: not served.reader.stale(1.0))

        assert served.source.stats.lists == 1
        resumed = next(each for each in list(api.requests)[asked:] if each.verb == "watch")
        assert resumed.query["resourceVersion"] == revision


# -- 3 to 6: a peer that is silent, or lies


def falls_silent_and_comes_back(
    api: ApiServer, follow: Following, silence: Callable[[], None], speech: Callable[[], None]
) -> float:
    """Silence the peer until it is noticed, let it speak again; returns the seconds it took to notice."""
    api.apply(app_model("one"))
    follow.wait_for(api, seconds=60.0)
    follow.wait_watched(api)
    revision = str(api.revision)
    silence()
    began = time.monotonic()
    follow.wait(lambda: "no answer" in follow.reason, 120.0)
    noticed = time.monotonic() - began

    follow.wait(lambda: follow.phases[-1] == "backing-off", 120.0)
    assert "no answer" in follow.reason
    assert follow.names == {"one"}
    speech()
    api.apply(app_model("two"))
    follow.wait_for(api, seconds=120.0)
    check_resumed(api, follow, revision)
    return noticed


@pytest.mark.fault(3)
@pytest.mark.parametrize(
    "timing", [IMPATIENT, pytest.param(REAL_TIMES, marks=pytest.mark.long)], ids=["short times", "real times"]
)
def test_03_a_black_hole_is_noticed_within_30_s(
    tmp_path: Path, timing: Timing, record_property: Callable[[str, object], None]
) -> None:
    with black_hole() as hole:
        api = hole.inside(lambda: ApiServer(host=hole.far, settings=fast_settings()))
        with api, Following(anonymous(api, tmp_path / "kubeconfig"), timing=timing) as follow:
            seconds = falls_silent_and_comes_back(api, follow, hole.swallow, hole.restore)
    record_property("seconds", seconds)
    print(f"a dead peer was noticed after {seconds:.1f} s")
    # At real times the kernel may be the first to notice.
    assert timing is REAL_TIMES or "unreachable" in follow.source.stats.restarts
    assert timing is not REAL_TIMES or seconds < 30.0


@pytest.mark.long
def test_03_a_black_hole_is_noticed_within_30_s_by_the_kernel_alone(tmp_path: Path) -> None:
    timing = msgspec.structs.replace(REAL_TIMES, probe_seconds=0.0)
    with black_hole() as hole:
        api = hole.inside(lambda: ApiServer(host=hole.far))
        with api, Following(anonymous(api, tmp_path / "kubeconfig"), timing=timing) as follow:
            seconds = falls_silent_and_comes_back(api, follow, hole.swallow, hole.restore)
    print(f"the kernel noticed a dead peer after {seconds:.1f} s")
    assert seconds < 30.0


PROMISED = [
    pytest.param(FIVE, id="P = 5 s, a tenth of all waits"),
    pytest.param(REAL_TIMES, id="the default", marks=pytest.mark.long),
]
"""Probe periods with which each promise of docs/failures.md is tested."""


@pytest.mark.fault(4)
@pytest.mark.parametrize("timing", PROMISED)
def test_04_a_frozen_proxy_is_noticed_within_2_periods_and_15_s(
    api: ApiServer, tmp_path: Path, timing: Timing, record_property: Callable[[str, object], None]
) -> None:
    forwarder = Forwarder(api.port)
    try:
        connection = server_at(api.kubeconfig(tmp_path / "kubeconfig"), forwarder.port)
        with Following(connection, timing=timing) as follow:
            seconds = falls_silent_and_comes_back(api, follow, forwarder.freeze, forwarder.thaw)
    finally:
        forwarder.close()
    record_property("seconds", seconds)
    print(f"a frozen proxy was noticed after {seconds:.1f} s, promised are {timing.frozen_within:.1f} s")
    assert seconds < timing.frozen_within


@pytest.mark.fault(5)
@pytest.mark.parametrize("swallowed", ["on the open stream", "on every stream"])
def test_05_silent_watch_of_a_moving_resource_is_noticed_by_the_probe(
    api: ApiServer, connection: Connection, swallowed: str
) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=LIVELY) as follow:
        dead = follow.wait_watched(api)
        if swallowed == "on every stream":
            api.faults.silence()
        else:
            api.watches.let_through = lambda watch, _type, _event: watch is not dead

        api.apply(app_model("two"))
        api.delete("appmodels", "one")
        follow.wait_for(api)

        assert follow.source.stats.restarts.keys() <= {"silent", "doubt"}
        assert follow.source.stats.restarts
        assert follow.source.stats.errors == 0


@contextmanager
def busy_with_others(api: ApiServer) -> Iterator[None]:
    """Write other resources continuously: the revision grows, and this resource has no events."""
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(0.1):
            api.bump()

    writing = threading.Thread(target=write)
    writing.start()
    try:
        yield
    finally:
        stop.set()
        writing.join()


@pytest.mark.fault(5)
@pytest.mark.parametrize("timing", PROMISED)
@pytest.mark.parametrize("swallowed", ["on the open stream", "on the open stream of a busy server", "on every stream"])
def test_05_a_swallowed_event_is_noticed_within_2_periods_and_75_s(
    tmp_path: Path, swallowed: str, timing: Timing, record_property: Callable[[str, object], None]
) -> None:
    """The event is swallowed at the worst moment, right after a probe."""
    settings = Settings() if timing is REAL_TIMES else fast_settings()
    with (
        ApiServer(settings=settings) as api,
        busy_with_others(api) if "busy" in swallowed else nullcontext(),
        Following(Connection(str(api.kubeconfig(tmp_path / "kubeconfig"))), timing=timing) as follow,
    ):
        follow.wait_synced()
        stats = follow.source.stats
        api.apply(app_model("m0"))
        follow.wait_for(api)
        dead = follow.wait_watched(api)
        follow.wait_probes(1, 2 * timing.silent_within)
        restarts = stats.restarts.copy()
        with api.faults.silence() if swallowed == "on every stream" else nullcontext():
            api.watches.let_through = lambda watch, _type, _event: watch is not dead
            api.apply(app_model("m1"))
            began = time.monotonic()
            follow.wait(lambda: stats.restarts != restarts, 3 * timing.silent_within)
            seconds = time.monotonic() - began
            follow.wait_for(api, seconds=60.0)
        print(f"swallowed {swallowed}: noticed after {seconds:.1f} s, promised are {timing.silent_within:.1f} s")
        record_property("seconds", seconds)
        assert seconds < timing.silent_within
        assert stats.restarts.keys() <= {"silent", "doubt"}


@pytest.mark.fault(6)
@pytest.mark.parametrize("timing", PROMISED)
def test_06_a_rewound_server_is_listed_again_within_120_s_plus_a_probe_period(
    tmp_path: Path, timing: Timing, record_property: Callable[[str, object], None]
) -> None:
    settings = Settings() if timing is REAL_TIMES else fast_settings()
    with (
        ApiServer(settings=settings) as api,
        Following(Connection(str(api.kubeconfig(tmp_path / "kubeconfig"))), timing=timing) as follow,
    ):
        api.apply(app_model("one"))
        backup = api.faults.backup()
        api.apply(app_model("two"))
        follow.wait_for(api, seconds=60.0)
        confirmed = follow.source.stats.confirmations  # the worst moment is right after the storage was asked
        follow.wait(lambda: follow.source.stats.confirmations > confirmed, 2 * timing.rewound_within)
        began = time.monotonic()
        api.faults.rewind(backup, end_streams=False)
        follow.wait(lambda: follow.source.stats.restarts.get("rewound") == 1, 2 * timing.rewound_within)
        seconds = time.monotonic() - began
        follow.wait_for(api, seconds=60.0)
        record_property("seconds", seconds)
        print(f"a rewound server was noticed after {seconds:.1f} s, promised are {timing.rewound_within:.1f} s")
        assert seconds < timing.rewound_within


@pytest.mark.fault(6)
@pytest.mark.parametrize("streams", ["cut", "left open"])
def test_06_a_server_restored_from_a_backup_is_listed_again(
    api: ApiServer, connection: Connection, streams: str
) -> None:
    api.apply(app_model("one"))
    backup = api.faults.backup()
    with Following(connection, timing=LIVELY) as follow:
        for number in range(5):
            api.apply(app_model("two", version=f"v{number}"))
        follow.wait_for(api)

        api.faults.rewind(backup, end_streams=streams == "cut")

        follow.wait(lambda: follow.names == {"one"})
        assert "rewound" in follow.source.stats.restarts
        api.apply(app_model("three"))
        follow.wait_for(api)


# -- 7 to 11: lists


@pytest.mark.fault(7)
@pytest.mark.parametrize("http", [False, True], ids=["in the stream", "as HTTP status"])
def test_07_a_410_lists_again_and_an_unchanged_set_publishes_nothing(
    api: ApiServer, connection: Connection, area: str, http: bool
) -> None:
    api.apply(app_model("iiot", ["iiot_dataservice"]))
    with serve(connection, area, CALM) as served:
        served.reader.wait_ready(WAIT_SECONDS)
        api.wait_watched()
        generation = served.reader.generation

        api.faults.gone(http=http)
        api.faults.end_streams()
        api.wait_until(lambda: served.source.stats.lists == 2)
        api.apply(app_model("later", ["another"]))
        api.wait_until(lambda: served.reader.get("another") is not None)

        assert served.reader.generation == generation + 1
        assert served.source.stats.restarts["gone"] == 1


class Noting:
    """A handler that records its calls."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_add(self, appmodel: AppModel) -> None:
        self.told.append(f"add {appmodel.key.name}")

    def on_update(self, old: AppModel, new: AppModel) -> None:
        self.told.append(f"update {new.key.name}")

    def on_delete(self, appmodel: AppModel) -> None:
        self.told.append(f"delete {appmodel.key.name}")


@pytest.mark.fault(7)
def test_07_410_over_an_unchanged_set_calls_no_handler(
    api: ApiServer, connection: Connection, area: str, tmp_path: Path
) -> None:
    handler = Noting()
    loader = MetadataLoader(FolderStore(str(tmp_path)))
    (tmp_path / "one_one").write_text("{}")
    (tmp_path / "later_later").write_text("{}")
    api.apply(app_model("one", ["one"]))
    with serve(connection, area, CALM, handlers=[handler], metadata=MetadataFeed(loader)) as served:
        served.reader.wait_ready(WAIT_SECONDS)
        api.wait_until(lambda: served.reader.resolve("one").metadata_state == "loaded")
        api.wait_watched()
        generation = served.reader.generation

        api.faults.gone()
        api.faults.end_streams()
        api.wait_until(lambda: served.source.stats.lists == 2)
        api.apply(app_model("later", ["later"]))
        api.wait_until(lambda: served.reader.get("later") is not None)
        api.wait_until(lambda: served.reader.resolve("later").metadata_state == "loaded")

        api.wait_until(lambda: "add later" in handler.told)  # by another thread than the one that publishes

        changes = served.reader.changes(generation, timeout=0.0, metadata=True)
        assert {change.model for change in changes if isinstance(change, Change)} == {"later"}
        assert handler.told == ["add one", "add later"]
        assert loader.counters.reads == 2


@pytest.mark.fault(7)
def test_07_objects_deleted_before_a_410_are_no_longer_served(
    api: ApiServer, connection: Connection, area: str
) -> None:
    handler = Noting()
    for name in ("one", "two"):
        api.apply(app_model(name, [name]))
    with serve(connection, area, CALM, handlers=[handler]) as served:
        served.reader.wait_ready(WAIT_SECONDS)
        api.wait_watched()
        api.faults.refuse()
        api.delete("appmodels", "one")
        api.faults.gone()
        api.faults.accept()

        api.wait_until(lambda: served.reader.get("one") is None)
        api.wait_until(lambda: "delete one" in handler.told)
        assert served.reader.resolve("two").app == "two"
        assert handler.told == ["add one", "add two", "delete one"]


@pytest.mark.fault(7)
@pytest.mark.parametrize("http", [False, True], ids=["in the stream", "as HTTP status"])
def test_07_a_list_after_a_410_deletes_objects_that_vanished(
    api: ApiServer, connection: Connection, http: bool
) -> None:
    for name in ("one", "two"):
        api.apply(app_model(name))
    with Following(connection) as follow:
        follow.wait_watched(api)
        api.faults.refuse()
        api.delete("appmodels", "one")
        api.apply(app_model("three"))
        api.faults.gone(http=http)
        api.faults.accept()

        follow.wait_for(api)
        assert follow.names == {"two", "three"}
        assert follow.of(Deleted) == []  # the list tells
        listed = [each for each in api.requests.select("watch") if "sendInitialEvents" in each.query]
        assert [each.query["resourceVersion"] for each in listed] == ["0", follow.of(Replaced)[0].items and "104"]


@pytest.mark.fault(7)
def test_07_a_410_again_and_again_backs_off(api: ApiServer, connection: Connection) -> None:
    api.faults.refuse_streaming_lists(http=True)
    with Following(connection) as follow:
        follow.wait_watched(api)
        outlast_a_short_watch(follow)
        with api.faults.gone(times=None):
            api.faults.end_streams()
            follow.wait(lambda: len(waits(follow)) >= 6)

        follow.wait_watched(api)
        check_backs_off(follow)
        assert follow.source.stats.restarts["gone"] <= len(waits(follow)) + 1  # the first lists at once


def test_07_an_expired_page_restarts_the_whole_list(api: ApiServer, connection: Connection) -> None:
    api.settings.streaming_lists = False
    api.preload(app_model(f"m{number:04}") for number in range(600))
    with Following(connection) as follow:
        follow.wait_watched(api)
        api.faults.fail_page(2, 410)
        follow.source.relist("test")
        follow.wait_replaced(2)

        pages = [each for each in api.requests.select("list") if "limit" in each.query][-4:]
        assert ["continue" in page.query for page in pages] == [False, True, False, True]
        assert len(follow.of(Replaced)[1].items) == 600
        assert follow.source.stats.errors == 0


@pytest.mark.fault(8)
def test_08_a_504_too_large_is_followed_by_one_list_at_the_newest_at_once(
    api: ApiServer, connection: Connection
) -> None:
    api.apply(app_model("one"))
    backup = api.faults.backup()
    with Following(connection) as follow:
        follow.wait_watched(api)
        api.bump(50)
        api.bookmark()
        follow.wait(lambda: follow.source.stats.bookmarks == 1)
        # Another server of the same cluster, whose cache is behind; and the watch cannot go on.
        api.faults.rewind(backup)
        api.faults.gone()
        api.faults.end_streams()

        follow.wait_replaced(2)
        follow.wait_watched(api)
        assert waits(follow) == [] or follow.source.stats.restarts.get("cut", 0) == len(waits(follow))
        lists = [each.query.get("resourceVersion", "") for each in api.requests if "sendInitialEvents" in each.query]
        assert lists[0] == "0"
        assert int(lists[1]) > api.revision
        assert lists[2:] == [""]


def test_08_repeated_lists_at_the_newest_version_back_off(api: ApiServer, connection: Connection) -> None:
    api.faults.refuse_streaming_lists(http=True)
    with Following(connection) as follow:
        follow.wait_watched(api)
        api.faults.fail(410, times=3, verb="list")
        api.faults.gone()
        api.faults.end_streams()

        follow.wait_replaced(2)
        first, *again = [each.query.get("resourceVersion", "") for each in api.requests.select("list")][1:]
        assert int(first) == api.revision
        assert again == ["", "", ""]
        assert follow.source.stats.restarts["http-410"] == 1


@pytest.mark.fault(9)
@pytest.mark.parametrize("fault", ["fails", "is cut short"])
def test_09_a_page_that_fails_drops_the_whole_list_and_deletes_nothing(
    api: ApiServer, connection: Connection, fault: str
) -> None:
    api.settings.streaming_lists = False
    api.preload(app_model(f"m{number:04}") for number in range(600))
    with Following(connection) as follow:
        follow.wait_for(api)
        before = dict(follow.items)
        faults = [api.faults.fail_page(2, times=3) if fault == "fails" else api.faults.cut_body(1_000, page=2, times=3)]
        follow.source.relist("test")
        follow.wait(lambda: follow.source.stats.errors >= 3)
        assert [each.hits for each in faults] == [3]
        assert follow.items == before

        follow.wait_replaced(2)
        follow.wait_for(api)
        assert len(follow.of(Replaced)) == 2
        assert follow.of(Deleted) == []


@pytest.mark.fault(10)
@pytest.mark.parametrize("http", [False, True], ids=["in the stream", "as HTTP status"])
def test_10_a_refused_streaming_list_falls_back_to_pages_and_is_remembered(
    api: ApiServer, connection: Connection, http: bool
) -> None:
    api.faults.refuse_streaming_lists(http=http)
    api.apply(app_model("one"))
    with Following(connection) as follow:
        follow.wait_for(api)
        follow.wait_watched(api)
        api.faults.gone()
        api.faults.end_streams()
        follow.wait_replaced(2)

        assert sum("sendInitialEvents" in each.query for each in api.requests) == 1
        assert api.requests.count("list") == 2


@pytest.mark.fault(11)
@pytest.mark.parametrize("end", ["is cut", "ends properly"])
def test_11_initial_stream_cut_before_its_bookmark_publishes_nothing(
    api: ApiServer, connection: Connection, end: str
) -> None:
    for number in range(5):
        api.apply(app_model(f"m{number}"))
    if end == "is cut":
        api.faults.cut_after_lines(3)
    else:
        api.faults.end_at_once(times=1)
    with Following(connection) as follow:
        follow.wait_for(api)

        [only] = follow.of(Replaced)
        assert len(only.items) == 5
        assert follow.of(Changed) == []
        assert follow.source.stats.errors == 1


# -- 12 to 14: refusals


@pytest.mark.fault(12)
@pytest.mark.parametrize(("code", "verb"), [(429, "list"), (503, "watch")])
def test_12_retry_after_is_obeyed_and_there_is_no_storm(
    api: ApiServer, connection: Connection, code: int, verb: str
) -> None:
    api.faults.refuse_streaming_lists(http=True)
    with Following(connection) as follow:
        follow.wait_watched(api)
        asked = len(api.requests)
        with api.faults.fail(code, retry_after=1, verb=verb):
            if verb == "list":
                follow.source.relist("test")
            else:
                api.faults.end_streams()
            follow.wait(lambda: len([seconds for seconds in waits(follow) if seconds >= 1.0]) >= 2)
            refused = [each for each in list(api.requests)[asked:] if each.status == code]

            # The wait after the last one may not have begun yet.
            assert 2 <= len(refused) <= len([seconds for seconds in waits(follow) if seconds >= 1.0]) + 1
            assert max(waits(follow)) < 2.0


@pytest.mark.fault(12)
@pytest.mark.parametrize("code", [429, 503])
def test_12_a_long_retry_after_does_not_hold_up_a_stop(api: ApiServer, connection: Connection, code: int) -> None:
    api.faults.fail(code, retry_after=300)
    with Following(connection) as follow:
        follow.wait(lambda: waits(follow) != [] and waits(follow)[0] >= 300.0)
        follow.stop.set()
        follow.thread.join(WAIT_SECONDS)

        assert not follow.thread.is_alive()
        assert len(api.requests) == 1


@pytest.mark.fault(13)
def test_13_a_rotated_token_is_read_again(api: ApiServer, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    connection = Connection(str(api.kubeconfig(tmp_path / "kubeconfig", token_file=token_file)))
    api.apply(app_model("one"))
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        token_file.write_text(api.auth.rotate())
        api.faults.cut_streams()
        api.apply(app_model("two"))
        follow.wait_for(api)

        assert follow.source.stats.restarts.keys() == {"cut"}
        assert follow.source.stats.lists == 1


def test_13_a_token_that_stays_refused_serves_the_last_state_and_recovers(api: ApiServer, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    connection = Connection(str(api.kubeconfig(tmp_path / "kubeconfig", token_file=token_file)))
    api.apply(app_model("one"))
    with Following(connection) as follow:
        follow.wait_watched(api)
        token = api.auth.rotate()
        api.faults.cut_streams()
        follow.wait(lambda: "credentials are refused" in follow.reason)
        assert follow.names == {"one"}

        token_file.write_text(token)
        api.apply(app_model("two"))
        follow.wait_for(api)


@pytest.mark.fault(13)
@pytest.mark.parametrize(("verb", "streaming"), [("list", True), ("watch", True), ("watch", False)])
def test_13_revoked_right_serves_the_last_state_warns_and_slows_down(
    api: ApiServer, connection: Connection, verb: str, streaming: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    api.settings.streaming_lists = streaming
    api.apply(app_model("one"))
    with Following(connection) as follow:
        follow.wait_watched(api)
        api.auth.forbid(verb)
        if verb == "list":
            follow.source.relist("test")
        else:
            api.faults.end_streams()
        follow.wait(lambda: "not allowed" in follow.reason)

        said = f"not allowed to {verb} appmodels.iidp.com in all namespaces: a role must grant the verb '{verb}'"
        assert follow.reason.startswith(said)
        assert said in caplog.text
        follow.wait(lambda: waits(follow)[-1] >= CALM.forbidden_seconds)
        assert follow.names == {"one"}

        api.apply(app_model("two"))
        api.auth.permit()
        follow.wait_for(api)
        follow.wait_watched(api)
        assert follow.reason == ""
        assert "watching again" in caplog.text


@pytest.mark.fault(13)
def test_13_one_403_of_a_starting_server_is_not_a_missing_right(api: ApiServer, connection: Connection) -> None:
    with Following(connection) as follow:
        follow.wait_watched(api)
        api.faults.forbidden(times=1, verb="watch")
        api.faults.end_streams()
        follow.wait(lambda: waits(follow) != [])
        follow.wait_watched(api)

        api.faults.forbidden(times=1, verb="watch")
        api.faults.end_streams()
        follow.wait(lambda: len(waits(follow)) > 1)
        follow.wait_watched(api)
        assert max(waits(follow)) < CALM.forbidden_seconds


@pytest.mark.fault(14)
def test_14_a_rotated_ca_makes_a_new_tls_context_on_connect(tmp_path: Path) -> None:
    first, second = (make_certificates(tmp_path / name, name) for name in ("first", "second"))
    with ApiServer(certificates=first, settings=fast_settings()) as api:
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        api.apply(app_model("one"))
        with Following(Connection(str(kubeconfig))) as follow:
            follow.wait_watched(api)
            api.use_certificates(second)
            api.faults.drop_connections()
            follow.wait(lambda: "certificate verify failed" in follow.reason)
            assert follow.names == {"one"}

            first.ca.write_bytes(second.ca.read_bytes())
            api.apply(app_model("two"))
            follow.wait_for(api)
            assert follow.source.stats.lists == 1


# -- 15, 16: streams that say nonsense, or nothing

NONSENSE = ["garbage", "blank_line", "half_line", "bad_utf8", "unknown_type", "error"]


@pytest.mark.fault(15)
@pytest.mark.parametrize("nonsense", NONSENSE)
def test_15_nonsense_drops_the_stream_without_moving_the_resource_version(
    api: ApiServer, connection: Connection, nonsense: str
) -> None:
    api.apply(app_model("one"))
    with Following(connection) as follow:
        follow.wait_watched(api)
        revision = str(api.revision)

        getattr(api.faults, f"inject_{nonsense}")()
        follow.wait(lambda: follow.source.stats.errors == 1)
        api.apply(app_model("two"))
        follow.wait_for(api)

        check_resumed(api, follow, revision)
        check_backs_off(follow)
        assert follow.source.stats.restarts == {"garbled": 1}


def test_15_repeated_garbage_backs_off(api: ApiServer, connection: Connection) -> None:
    timing = msgspec.structs.replace(CALM, backoff_cap_seconds=10.0)
    with Following(connection, timing=timing) as follow:
        follow.wait_watched(api)
        outlast_a_short_watch(follow)
        api.watches.opens = lambda watch: watch.injected.append(b"\n") or True  # type: ignore[func-returns-value]
        api.faults.end_streams()
        follow.wait(lambda: len(waits(follow)) >= 5)
        watches = follow.source.stats.watches

        check_backs_off(follow, timing)
        assert watches <= len(waits(follow)) + 2


@pytest.mark.fault(15)
def test_15_a_list_skips_an_event_that_stays_unreadable(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection) as follow:
        follow.wait_watched(api)
        poisoned = api.revision
        unknown = b'{"type":"PATCHED","object":{}}\n'

        def begin(watch: Watch) -> bool:
            """Begin each further stream with an event of an unknown type."""
            send = watch.send
            if watch.asked_revision <= poisoned:
                watch.injected.append(unknown)
                watch.send = lambda lines: send([unknown, *lines])
            return True

        api.watches.opens = begin
        api.faults.end_streams()
        follow.wait(lambda: follow.source.stats.restarts.get("garbled", 0) > 0)
        api.apply(app_model("two"))
        follow.wait_for(api)

        assert follow.source.stats.restarts.get("garbled", 0) >= GARBLED_ATTEMPTS
        assert follow.source.stats.lists > 1


@pytest.mark.parametrize("size", [1, 7, 100])
def test_15_a_stream_cut_into_any_pieces_gives_the_same_events(
    api: ApiServer, connection: Connection, size: int
) -> None:
    api.apply(app_model("one"))
    api.faults.chunk(size)
    with Following(connection) as follow:
        follow.wait_watched(api)
        api.apply(app_model("two"))
        api.apply(app_model("one", version="v2"))
        follow.wait_for(api)

        assert follow.source.stats.restarts == {}


@pytest.mark.fault(16)
@pytest.mark.parametrize("cut", [False, True], ids=["properly", "cut"])
def test_16_a_stream_that_ends_at_once_again_and_again_backs_off(
    api: ApiServer, connection: Connection, cut: bool
) -> None:
    timing = msgspec.structs.replace(CALM, short_watch_seconds=2.0, backoff_cap_seconds=10.0)
    with Following(connection, timing=timing) as follow:
        follow.wait_watched(api)
        with api.faults.end_at_once(cut=cut) as fault:
            api.faults.end_streams()
            follow.wait(lambda: fault.hits >= 4)

            hits = fault.hits
            assert len(waits(follow)) >= hits - 1
            check_backs_off(follow, timing)
        follow.wait_watched(api)
        assert follow.source.stats.lists == 1


# -- 35: an event is lost


@pytest.mark.fault(35)
@pytest.mark.parametrize("lost", ["ADDED", "MODIFIED", "DELETED"])
def test_35_lost_event_is_found_and_repaired_by_the_audit(api: ApiServer, connection: Connection, lost: str) -> None:
    for name in ("one", "two"):
        api.apply(app_model(name))
    with Following(connection, timing=msgspec.structs.replace(LIVELY, audit_seconds=0.3)) as follow:
        follow.wait_watched(api)
        fault = api.faults.drop_event(event_type=lost)
        match lost:
            case "ADDED":
                api.apply(app_model("three"))
            case "MODIFIED":
                api.apply(app_model("one", version="v2"))
            case "DELETED":
                api.delete("appmodels", "one")
        # The next event takes the position past the lost one: no probe can see it any more.
        api.apply(app_model("two", version="v2"))

        follow.wait_for(api)
        assert fault.hits >= 1
        follow.wait(lambda: follow.source.stats.audit_differences == 1)
        assert [result.differences for result in follow.of(AuditResult) if result.differences] == [1]
        follow.wait(lambda: follow.of(AuditResult)[-1].differences == 0)
