"""A comparison with a fresh list finds lost events, and ignores events that are still on their way."""

from __future__ import annotations

import msgspec
import pytest

from shmroute.kube.connection import Connection
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import ENDPOINTSLICES
from shmroute.sources.base import AuditResult, Replaced
from tests.apiserver import ApiServer, app_model, endpoint_slice
from tests.sources.kubernetes.following import CALM, Following


def audit(follow: Following) -> AuditResult:
    """Ask for an audit and wait for its result."""
    before = len(follow.of(AuditResult))
    follow.source.audit_now()
    follow.wait(lambda: len(follow.of(AuditResult)) > before)
    return follow.of(AuditResult)[-1]


@pytest.fixture
def follow(api: ApiServer, connection: Connection) -> Following:
    for name in ("one", "two", "three"):
        api.apply(app_model(name))
    return Following(connection)


def lose(api: ApiServer, follow: Following, what: str) -> None:
    """Make the watch lose one event of a kind, and then deliver a later one."""
    follow.wait_for(api)
    api.faults.drop_event(name="one" if what != "an addition" else "new")
    match what:
        case "a change":
            api.apply(app_model("one", version="v2"))
        case "a deletion":
            api.delete("appmodels", "one")
        case "an addition":
            api.apply(app_model("new"))
    api.apply(app_model("later"))
    follow.wait(lambda: "later" in follow.names)


@pytest.mark.parametrize("what", ["a change", "a deletion", "an addition"])
def test_a_lost_event_is_found_counted_and_repaired(api: ApiServer, follow: Following, what: str) -> None:
    with follow:
        lose(api, follow, what)

        result = audit(follow)

        name = "new" if what == "an addition" else "one"
        assert (result.differences, result.keys, result.error) == (1, (ObjectKey("default", name),), "")
        follow.wait_for(api)
        assert follow.source.stats.audit_differences == 1
        assert follow.source.stats.restarts == {"audit": 1}
        follow.wait(lambda: follow.phases[-1] == "watching")
        assert audit(follow).differences == 0


@pytest.mark.fault(35)
def test_a_late_event_is_not_a_difference(api: ApiServer, connection: Connection) -> None:
    for name in ("one", "two"):
        api.apply(app_model(name))
    with Following(connection, timing=msgspec.structs.replace(CALM, audit_grace_seconds=1.5)) as follow:
        follow.wait_for(api)
        with api.faults.freeze():
            api.apply(app_model("one", version="v2"))
            api.delete("appmodels", "two")
            follow.source.audit_now()
            api.requests.wait(1, "list")
        follow.wait(lambda: bool(follow.of(AuditResult)))

        [result] = follow.of(AuditResult)
        assert (result.differences, result.error) == (0, "")
        assert len(follow.of(Replaced)) == 1


def test_an_audit_without_differences_sends_no_event(api: ApiServer, follow: Following) -> None:
    with follow:
        follow.wait_for(api)

        assert audit(follow).checked == 3
        assert len(follow.of(Replaced)) == 1
        assert follow.source.stats.audits == 1


def test_audit_ignores_invalid_and_unowned_slices(api: ApiServer, connection: Connection) -> None:
    nobody = endpoint_slice("nobody", "gone")
    del nobody["metadata"]["labels"]
    api.put(nobody)
    broken = endpoint_slice("broken", "svc")
    broken["endpoints"] = "none"
    api.put(broken)
    with Following(connection, ENDPOINTSLICES) as follow:
        follow.wait_watched(api)

        result = audit(follow)

        assert (result.checked, result.differences, result.error) == (2, 0, "")


@pytest.mark.parametrize("code", [403, 500, 503])
def test_an_audit_whose_list_fails_is_reported_and_not_counted(api: ApiServer, follow: Following, code: int) -> None:
    with follow:
        follow.wait_for(api)
        api.faults.fail(code, times=1, verb="list")

        result = audit(follow)

        assert str(code) in result.error
        assert (follow.source.stats.audits, follow.source.stats.audit_differences) == (0, 0)


def test_an_audit_before_the_first_list_is_reported(api: ApiServer, follow: Following) -> None:
    with api.faults.forbidden(), follow:
        api.requests.wait(1)

        assert "not watching" in audit(follow).error


@pytest.mark.fault(35)
def test_a_new_list_cancels_a_running_audit(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=msgspec.structs.replace(CALM, audit_grace_seconds=1.0)) as follow:
        follow.wait_for(api)
        lose(api, follow, "a change")
        follow.source.audit_now()
        api.requests.wait(1, "list")
        follow.source.relist("test")
        follow.wait(lambda: bool(follow.of(AuditResult)))

        assert "meanwhile" in follow.of(AuditResult)[0].error
        follow.wait_for(api)


@pytest.mark.fault(35)
def test_a_lost_watch_cancels_a_running_audit(api: ApiServer, connection: Connection) -> None:
    """Events of a lost watch are late, not lost: they arrive when the watch resumes."""
    api.apply(app_model("one"))
    timing = msgspec.structs.replace(
        CALM, audit_grace_seconds=1.5, backoff_first_seconds=30.0, backoff_cap_seconds=30.0
    )
    with Following(connection, timing=timing) as follow:
        follow.wait_watched(api)
        with api.faults.freeze(), api.faults.fail(503, verb="watch"):
            api.apply(app_model("one", version="v2"))
            follow.source.audit_now()
            api.requests.wait(1, "list")
            api.faults.cut_streams()
            follow.wait(lambda: bool(follow.of(AuditResult)))

        [result] = follow.of(AuditResult)
        assert (result.differences, result.error) == (0, "the watch was lost meanwhile")


def test_audits_run_periodically(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=msgspec.structs.replace(CALM, audit_seconds=0.1)) as follow:
        follow.wait(lambda: follow.source.stats.audits >= 3)

        assert follow.source.stats.audit_differences == 0


def test_two_simultaneous_audit_requests_cause_one_audit(api: ApiServer, follow: Following) -> None:
    with follow:
        follow.wait_for(api)
        with api.faults.delay(0.3, verb="list"):
            follow.source.audit_now()
            follow.source.audit_now()
            follow.wait(lambda: bool(follow.of(AuditResult)))

        assert api.requests.count("list") == 1
