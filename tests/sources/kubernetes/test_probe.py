"""Probes distinguish a quiet watch, a dead one and a restored server, at the cost of at most a reconnect."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import pytest

from shmroute.kube.abort import Abort
from shmroute.kube.connection import Connection
from shmroute.sources.base import AuditResult, Replaced, Resync, SourceState
from shmroute.sources.kubernetes.source import KubernetesSource
from tests.apiserver import ApiServer, app_model
from tests.sources.kubernetes.following import CALM, LIVELY, PATIENT, Following


def test_a_probe_is_a_pair_of_small_requests(api: ApiServer, connection: Connection) -> None:
    with Following(connection, selector="iidp=iidp", timing=LIVELY) as follow:
        follow.wait_watched(api)
        follow.wait(lambda: follow.source.stats.confirmations == 1)

        cache, quorum = api.requests.select("list")[:2]
        name = {"fieldSelector": "metadata.name=-probe-"}
        assert cache.query == {**name, "resourceVersion": "0"}
        assert quorum.query == name


def test_the_storage_is_probed_only_when_due(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=msgspec.structs.replace(LIVELY, confirm_seconds=3600.0)) as follow:
        follow.wait_watched(api)
        follow.wait_probes(4)

        assert follow.source.stats.confirmations == 1
        lists = api.requests.select("list")
        assert sum("resourceVersion" not in each.query for each in lists) == 1
        assert follow.state is not None
        assert 0 < follow.state.confirmed_ns < follow.contact_ns


def test_with_probes_off_no_request_is_sent(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=CALM) as follow:
        follow.wait_watched(api)
        follow.stop.wait(0.3)

        assert api.requests.count("list") == 0


def test_a_watch_with_events_is_probed_half_as_often(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=msgspec.structs.replace(PATIENT, confirm_seconds=3600.0)) as follow:
        follow.wait_watched(api)
        follow.wait_probes(1)
        before, began = follow.source.stats.probes, time.monotonic()
        while time.monotonic() - began < 3.0:
            api.apply(app_model("one", version=str(time.monotonic_ns())))
            follow.stop.wait(0.02)
        periods = (time.monotonic() - began) / PATIENT.probe_seconds

        assert follow.source.stats.probes - before < 0.7 * periods


def test_a_quiet_server_is_never_peeked(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        before = follow.contact_ns
        follow.wait_probes(4)

        assert follow.source.stats.peeks == 0
        assert follow.contact_ns > before


@pytest.mark.fault(5)
def test_a_peek_that_sees_nothing_is_not_repeated_at_each_probe(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=PATIENT) as follow:
        follow.wait_watched(api)
        api.apply(app_model("one", version="v2"))
        follow.wait_for(api)
        position = api.revision
        for _ in range(3):
            before, peeks = follow.contact_ns, follow.source.stats.peeks
            api.bump(10)
            follow.wait_contact(before)
            follow.wait(lambda: follow.source.stats.peeks > peeks)  # noqa: B023
        peeks = follow.source.stats.peeks
        follow.wait_probes(3)

        assert follow.source.stats.peeks == peeks == 3
        starts = [int(each.query["resourceVersion"]) for each in api.requests.select("watch")[-3:]]
        assert starts == [position, position + 10, position + 20]
        assert follow.source.stats.restarts == {}


def test_an_event_the_watch_delivers_too_raises_no_alarm(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=PATIENT) as follow:
        follow.wait_watched(api)
        for number in range(60):
            api.apply(app_model("one", version=f"v{number}"))
            follow.stop.wait(0.01)
        follow.wait_probes(2)

        assert follow.source.stats.restarts == {}


@pytest.mark.fault(5)
def test_events_held_back_are_fetched_by_a_new_watch_without_a_list(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=msgspec.structs.replace(LIVELY, grace_seconds=2.0)) as follow:
        dead = follow.wait_watched(api)
        api.watches.is_paused = lambda watch: watch is dead
        api.apply(app_model("two"))
        follow.wait_for(api)

        assert follow.source.stats.restarts == {"silent": 1}
        assert follow.source.stats.lists == 1


def test_a_late_peek_starts_a_comparison(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=msgspec.structs.replace(LIVELY, grace_seconds=2.0)) as follow:
        dead = follow.wait_watched(api)
        api.watches.is_paused = lambda watch: watch is dead
        with api.store.lock:
            api.apply(app_model("two"))
            api.faults.compact()

        follow.wait_for(api)
        assert follow.source.stats.restarts == {"silent": 1, "gone": 1}


@pytest.mark.fault(5)
def test_peeks_grow_rare_where_they_cannot_show_a_missing_event(api: ApiServer, connection: Connection) -> None:
    """A server without bookmarks whose other resources are busy must not be listed for ever."""
    timing = msgspec.structs.replace(
        LIVELY, probe_seconds=0.02, bookmark_seconds=0.01, peek_seconds=1, grace_seconds=0.01
    )
    api.settings.clock = lambda: time.monotonic() * 50
    with Following(connection, timing=timing) as follow:
        follow.wait_watched(api)
        target = follow.source.stats.probes + 36
        while follow.source.stats.probes < target:
            api.bump()
            follow.wait_probes(1)

        stats = follow.source.stats
        assert 2 <= stats.peeks <= 10  # of 36 probes: 0.01 s and doubling leave room for no more
        assert stats.comparisons <= stats.peeks
        assert stats.restarts == {}
        assert stats.errors == 0


def test_comparison_finds_events_that_no_stream_delivers(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        with api.faults.silence():
            api.apply(app_model("two"))
            follow.wait_for(api)

        assert follow.source.stats.restarts == {"doubt": 1}


def test_one_unanswered_probe_is_not_an_alarm(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=msgspec.structs.replace(LIVELY, probe_timeout_seconds=1.0)) as follow:
        follow.wait_watched(api)
        api.faults.hang(times=1, verb="list")
        follow.wait_probes(3)

        assert follow.source.stats.restarts == {}


@pytest.mark.fault(13)
def test_a_probe_that_is_refused_says_why_and_leaves_the_watch_alone(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        with api.faults.forbidden(verb="list"):
            follow.wait(lambda: follow.reason.startswith("the probe fails: not allowed to list appmodels.iidp.com"))
            contact = follow.contact_ns
            api.requests.wait(len(api.requests) + 2)
            assert follow.contact_ns == contact
        follow.wait(lambda: follow.contact_ns > contact)

        assert follow.reason == ""
        assert follow.phases[-1] == "watching"
        assert follow.source.stats.restarts == {}


def test_unreachable_storage_is_reported_while_the_watch_continues(api: ApiServer, connection: Connection) -> None:
    """etcd is unreachable: the server's cache and the watch continue, and every quorum read fails."""
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        follow.wait(lambda: bool(follow.state and follow.state.confirmed_ns))
        api.lister.storage_away = "etcdserver: request timed out"
        follow.wait(lambda: follow.reason.startswith("the storage is not confirmed: cannot list appmodels.iidp.com"))
        assert follow.state is not None
        confirmed, contact = follow.state.confirmed_ns, follow.contact_ns
        before = len(follow.of(SourceState))
        api.faults.end_streams()
        follow.wait(lambda: follow.source.stats.watches == 2)
        follow.wait_contact(contact)
        follow.wait_contact(time.monotonic_ns())

        assert all("etcdserver: request timed out" in state.reason for state in follow.of(SourceState)[before:])
        assert follow.state.confirmed_ns == confirmed
        api.apply(app_model("one"))
        follow.wait_for(api)

        api.lister.storage_away = ""
        follow.wait(lambda: follow.reason == "")
        follow.wait(lambda: bool(follow.state and follow.state.confirmed_ns > confirmed))
        assert "unreachable" not in follow.source.stats.restarts


@pytest.mark.fault(12)
def test_a_probe_waits_for_the_retry_after_it_was_given(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        api.faults.too_many_requests(times=1, retry_after=3600, verb="list")
        follow.wait(lambda: "429" in follow.reason)
        asked = len(api.requests)
        follow.stop.wait(LIVELY.probe_seconds * 4)

        assert len(api.requests) == asked


@pytest.mark.parametrize("streams", ["cut", "left open"])
def test_a_server_restored_from_a_backup_is_listed_again(api: ApiServer, connection: Connection, streams: str) -> None:
    api.apply(app_model("one"))
    backup = api.faults.backup()
    with Following(connection, timing=LIVELY) as follow:
        api.apply(app_model("two"))
        follow.wait_for(api)
        api.faults.rewind(backup, end_streams=streams == "cut")

        follow.wait(lambda: follow.names == {"one"})
        follow.wait_for(api)
        assert "rewound" in follow.source.stats.restarts
        api.apply(app_model("three"))
        follow.wait_for(api)


def test_restored_backup_is_noticed_even_from_an_older_position(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        api.apply(app_model("one", version="v2"))
        follow.wait_for(api)
        backup = api.faults.backup()
        highest = api.bump(100)
        follow.wait(lambda: follow.source._sync.highest >= highest)
        api.faults.rewind(backup)

        follow.wait(lambda: "rewound" in follow.source.stats.restarts)
        follow.wait(lambda: follow.source._sync.highest == api.revision)
        restarts = dict(follow.source.stats.restarts)
        follow.wait_probes(2)
        assert follow.source.stats.restarts == restarts


@pytest.mark.fault(6)
def test_an_event_older_than_the_last_one_causes_a_new_list(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    backup = api.faults.backup()
    with Following(connection, timing=CALM) as follow:
        follow.wait_watched(api)
        for number in range(5):
            api.apply(app_model("two", version=f"v{number}"))
        follow.wait_for(api)
        stale = b'{"type":"ADDED","object":{"metadata":{"name":"x","namespace":"default","resourceVersion":"%d"}}}\n'
        api.faults.rewind(backup)
        api.faults.inject(stale % api.revision)

        follow.wait_for(api)
        assert follow.source.stats.restarts == {"rewound": 1}
        assert len(follow.of(Replaced)) == 2


# -- after a broken connection


@pytest.mark.fault(40)
def test_restored_server_past_our_revision_is_compared_before_in_step(api: ApiServer, connection: Connection) -> None:
    """Without a trace: the watch resumes, and its revision is one that the restored server has had since."""
    for name in ("kept", "lost"):
        api.apply(app_model(name))
    api.delete("appmodels", "lost")
    backup = api.faults.backup()
    with Following(connection, timing=msgspec.structs.replace(CALM, compare_spread_seconds=0.5)) as follow:
        api.apply(app_model("after-the-backup"))
        follow.wait_for(api)
        follow.wait_watched(api)
        api.faults.refuse()
        follow.wait(lambda: follow.phases[-1] == "backing-off")
        contact = follow.contact_ns
        api.faults.rewind(backup)
        for number in range(3):
            api.apply(app_model("kept", version=f"v{number}"))
        api.apply(app_model("new"))
        assert api.revision > follow.source._sync.position
        api.faults.accept()

        follow.wait(lambda: follow.phases[-1] == "watching")
        assert "compared with the server" in follow.reason or follow.source.stats.restarts.get("compared")
        follow.wait_for(api)
        assert follow.names == {"kept", "new"}
        assert follow.source.stats.restarts["compared"] == 1
        follow.wait_contact(contact)
        follow.wait(lambda: follow.reason == "")


@pytest.mark.fault(40)
def test_an_object_made_again_at_the_same_resource_version_differs(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one", version="old"))
    revision = api.revision
    with Following(connection, timing=CALM) as follow:
        follow.wait_for(api)
        follow.wait_watched(api)
        api.faults.refuse()
        follow.wait(lambda: follow.phases[-1] == "backing-off")
        api.delete("appmodels", "one")
        with api.store.lock:
            api.store.revision = revision - 1
            table = api.store.find("appmodels")
            del table.log[:]
            table.forget_states()
            table.floor = table.cache_revision = revision - 1
            api.apply(app_model("one", version="new"))
        assert api.revision == revision
        api.faults.accept()

        follow.wait(lambda: follow.source.stats.restarts.get("compared") == 1)
        follow.wait(lambda: [item.version for item in follow.items.values()] == ["new"])  # type: ignore[attr-defined]


def test_after_a_broken_connection_one_comparison_runs(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=msgspec.structs.replace(CALM, compare_spread_seconds=2.0)) as follow:
        follow.wait_watched(api)
        contact = follow.contact_ns
        api.faults.cut_streams()
        follow.wait(lambda: "compared with the server" in follow.reason)
        api.apply(app_model("two"))
        follow.wait(lambda: follow.names == {"one", "two"})
        assert follow.contact_ns == contact
        follow.wait_contact(contact)

        [listed] = api.requests.select("list")
        assert "as=PartialObjectMetadataList" in listed.headers["accept"]
        assert listed.query["resourceVersionMatch"] == "NotOlderThan"
        assert follow.source.stats.comparisons == 1
        assert follow.source.stats.lists == 1
        assert follow.reason == ""


def test_a_watch_that_ends_cleanly_needs_no_comparison(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=msgspec.structs.replace(CALM, watch_seconds=(2.0, 2.0))) as follow:
        follow.wait(lambda: follow.source.stats.watches >= 4)

        assert api.requests.count("list") == 0
        assert follow.source.stats.comparisons == 0


def test_comparisons_of_a_flapping_connection_are_spaced(api: ApiServer, connection: Connection) -> None:
    timing = msgspec.structs.replace(CALM, compare_spacing_seconds=3600.0, short_watch_seconds=0.0)
    with Following(connection, timing=timing) as follow:
        for count in range(1, 6):
            follow.wait_watched(api)
            api.faults.cut_streams()
            follow.wait(lambda count=count: follow.source.stats.watches > count)  # type: ignore[misc]
            if count == 1:
                follow.wait(lambda: follow.source.stats.comparisons == 1)
        follow.wait(lambda: "within 3" in follow.reason)

        assert api.requests.count("list") == 1


@pytest.mark.parametrize("code", [403, 429, 500])
def test_refused_comparison_is_reported_and_retried(api: ApiServer, connection: Connection, code: int) -> None:
    with Following(connection, timing=CALM) as follow:
        follow.wait_watched(api)
        contact = follow.contact_ns
        with api.faults.fail(code, verb="list"):
            api.faults.cut_streams()
            follow.wait(lambda: "cannot be compared with the server" in follow.reason)
            assert follow.contact_ns == contact
        follow.wait_contact(contact)

        assert follow.reason == ""


# -- threads


@pytest.mark.fault(42)
@pytest.mark.parametrize("raised", [RuntimeError("can't start new thread"), SystemExit(), MemoryError()])
def test_failed_probe_thread_is_reported_and_restarted(
    api: ApiServer, connection: Connection, monkeypatch: pytest.MonkeyPatch, raised: BaseException
) -> None:
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        follow.wait_probes(1)
        liveness = follow.source._liveness
        assert liveness is not None
        whole = liveness.probe
        failed: list[bool] = []

        def fail_once(*, confirm: bool) -> None:
            if not failed:
                failed.append(confirm)
                raise raised
            whole(confirm=confirm)

        monkeypatch.setattr(liveness, "probe", fail_once)
        follow.wait(lambda: "the appmodels probe thread failed and was started again" in follow.reason)
        follow.wait_probes(2)

        assert follow.source.stats.restarts == {"probe-thread": 1}


@pytest.mark.fault(42)
def test_an_audit_that_fails_is_reported_and_runs_at_its_next_time(
    api: ApiServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Following(connection, timing=msgspec.structs.replace(CALM, audit_seconds=0.1)) as follow:
        identities = follow.source._api.identities
        failed: list[str] = []

        def fail_once(resource_version: str, *, abort: Abort) -> Any:
            if not failed:
                failed.append(resource_version)
                raise RuntimeError("a defect")
            return identities(resource_version, abort=abort)

        monkeypatch.setattr(follow.source._api, "identities", fail_once)
        follow.wait(lambda: bool(failed) and follow.source.stats.audits >= 2)

        assert "a defect" in next(result.error for result in follow.of(AuditResult) if result.error)


@pytest.mark.fault(42)
def test_failed_watch_thread_is_reported_and_restarted(
    api: ApiServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        reflector = follow.source._reflector
        whole = reflector._watch
        failed: list[bool] = []

        def fail_once() -> None:
            if not failed:
                failed.append(True)
                raise SystemExit
            whole()

        monkeypatch.setattr(reflector, "_watch", fail_once)
        api.faults.end_streams()
        follow.wait(lambda: "the appmodels watch thread failed and was started again" in follow.reason)
        api.apply(app_model("two"))
        follow.wait_for(api)

        assert follow.source.stats.restarts["watch-thread"] == 1


@pytest.mark.fault(42)
def test_failed_timer_thread_is_restarted_and_a_stop_still_works(
    api: ApiServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = KubernetesSource._keep_time
    failed: list[bool] = []

    def fail_once(source: KubernetesSource, stop: threading.Event) -> None:
        if not failed:
            failed.append(True)
            raise MemoryError
        whole(source, stop)

    monkeypatch.setattr(KubernetesSource, "_keep_time", fail_once)
    with Following(connection, timing=CALM, resync_seconds=0.05) as follow:
        follow.wait_watched(api)
        follow.wait(lambda: bool(follow.of(Resync)))
        assert "the appmodels time thread failed and was started again" in follow.reason
