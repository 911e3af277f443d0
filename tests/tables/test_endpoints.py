"""The endpoints of an app: the slices used, the states known and not known, and the cost of changes."""

from __future__ import annotations

import msgspec
import pytest

from shmroute.rows import EndpointsRow, EndpointsState, InvalidRow, Kind
from shmroute.sources.base import Changed, Deleted, Replaced
from shmroute.tables import EndpointRules, Index
from tests.tables.builders import Followed, appmodel, endpoint, endpointslice


def state_of(followed: Followed, name: str = "default/app") -> EndpointsState:
    row = followed.row(Kind.ENDPOINTS, name)
    assert isinstance(row, EndpointsRow)
    return row.state


def test_an_app_without_slices_is_not_known() -> None:
    followed = Followed()
    followed.put(appmodel("app"))
    assert followed.row(Kind.ENDPOINTS, "default/app") == EndpointsRow("default/app", EndpointsState.UNKNOWN)


def test_slices_listed_before_their_appmodel_are_not_lost() -> None:
    followed = Followed()
    followed.put(endpointslice("s", "10.0.0.1", service="app"))
    assert followed.take() == {}
    followed.put(appmodel("app"))
    assert followed.addresses("app") == ["10.0.0.1:80"]


def test_all_slices_of_the_service_are_merged_and_sorted() -> None:
    followed = Followed()
    followed.put(
        appmodel("app"),
        endpointslice("s2", "10.0.0.3", service="app"),
        endpointslice("s1", "10.0.0.2", "10.0.0.1", service="app"),
        endpointslice("s3", "10.0.0.9", service="other"),
        endpointslice("elsewhere/s1", "10.0.0.8", service="app"),
    )
    assert followed.addresses("app") == ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]


def test_change_of_a_service_changes_rows_of_its_apps_only() -> None:
    followed = Followed()
    followed.put(
        appmodel("app", "m1 m2 m3"),
        appmodel("twin", "m4", service="app"),
        appmodel("far/cousin", "m5", service="default/app"),
        appmodel("other", "m6"),
    )
    followed.put(endpointslice("s", "10.0.0.1", service="app"), endpointslice("o", "10.0.1.1", service="other"))
    followed.take()
    followed.put(endpointslice("s", endpoint("10.0.0.1", ready=False), service="app"))
    assert set(followed.take()) == {
        (Kind.ENDPOINTS, "default/app"),
        (Kind.ENDPOINTS, "default/twin"),
        (Kind.ENDPOINTS, "far/cousin"),
    }


def test_a_slice_that_only_got_a_new_resource_version_changes_nothing() -> None:
    followed = Followed()
    followed.put(appmodel("app"), endpointslice("s", "10.0.0.1", service="app", version=1))
    followed.take()
    followed.put(endpointslice("s", "10.0.0.1", service="app", version=2))
    assert followed.take() == {}


def test_changing_an_appmodels_models_keeps_its_endpoints() -> None:
    followed = Followed()
    followed.put(appmodel("app", "m1"), endpointslice("s", "10.0.0.1", service="app"))
    followed.take()
    followed.put(appmodel("app", "m1 m2", version="v-2"))
    assert not any(kind == Kind.ENDPOINTS for kind, _ in followed.take())


def test_the_annotation_chooses_the_service() -> None:
    followed = Followed()
    followed.put(
        endpointslice("s", "10.0.0.1", service="app"),
        endpointslice("web/t", "10.0.1.1", service="front"),
        appmodel("app", service="web/front"),
    )
    assert followed.addresses("app") == ["10.0.1.1:80"]
    assert followed.row(Kind.ENDPOINTS, "default/app").service == "web/front"
    followed.put(appmodel("app"))
    assert followed.addresses("app") == ["10.0.0.1:80"]
    followed.put(endpointslice("web/t", "10.0.1.2", service="front"))
    assert followed.take() == {}


def test_a_slice_that_changes_its_service_leaves_the_former_one() -> None:
    followed = Followed()
    followed.put(appmodel("app", "m1"), appmodel("other", "m2"))
    followed.put(endpointslice("s", "10.0.0.1", service="app"))
    followed.put(endpointslice("s", "10.0.0.1", service="other"))
    assert followed.addresses("app") == []
    assert followed.addresses("other") == ["10.0.0.1:80"]


# --- known, known empty, not known ---------------------------------------------------------------------------


def test_a_service_scaled_to_zero_is_known_empty() -> None:
    followed = Followed()
    followed.put(appmodel("app"), endpointslice("s", "10.0.0.1", service="app"))
    followed.put(endpointslice("s", service="app", ports=""))
    assert state_of(followed) == EndpointsState.KNOWN
    assert followed.addresses("app") == []


@pytest.mark.fault(19)
@pytest.mark.fault(20)
def test_a_service_whose_last_slice_is_deleted_stays_known_empty() -> None:
    followed = Followed()
    item = endpointslice("s", "10.0.0.1", service="app")
    followed.put(appmodel("app"), item)
    followed.delete(item)
    assert state_of(followed) == EndpointsState.KNOWN
    assert followed.addresses("app") == []
    followed.put(item)
    assert followed.addresses("app") == ["10.0.0.1:80"]
    assert followed.index._endpoints._emptied == {}, "it is not kept for one that has slices"


def test_emptied_service_missing_in_a_list_is_not_known() -> None:
    followed = Followed()
    item, other = endpointslice("s", "10.0.0.1", service="app"), endpointslice("o", service="other")
    followed.put(appmodel("app"), item)
    followed.delete(item)
    assert state_of(followed) == EndpointsState.KNOWN
    followed.replace(other)
    assert state_of(followed) == EndpointsState.UNKNOWN


def test_slices_missing_in_a_list_make_their_service_not_known() -> None:
    followed = Followed()
    followed.put(appmodel("app"), endpointslice("s", "10.0.0.1", service="app"))
    followed.index.apply(Replaced("endpointslices", ()))
    assert state_of(followed) == EndpointsState.UNKNOWN


def test_an_emptied_service_without_appmodel_is_forgotten() -> None:
    followed = Followed()
    item = endpointslice("s", "10.0.0.1", service="app")
    followed.put(appmodel("app"), item)
    followed.delete(item)
    followed.delete(appmodel("app"))
    followed.put(appmodel("app"))
    assert state_of(followed) == EndpointsState.UNKNOWN


def test_emptied_service_is_forgotten_if_only_its_namesake_appmodel_is_left() -> None:
    followed = Followed()
    item = endpointslice("s", "10.0.0.1", service="app")
    followed.put(appmodel("app", "m1", service="web"), appmodel("other", "m2", service="app"), item)
    followed.delete(item)
    followed.delete(appmodel("other"))
    followed.put(appmodel("app", "m1"))
    assert state_of(followed) == EndpointsState.UNKNOWN


def test_emptied_service_that_changes_its_appmodel_stays_known_empty() -> None:
    item = endpointslice("s", "10.0.0.1", service="web")
    for first, second in (("a", "b"), ("b", "a")):
        followed = Followed()
        followed.put(appmodel(first, "m1", service="web"), item)
        followed.delete(item)
        followed.replace(appmodel("a", "m1"), appmodel("b", "m2"), appmodel(second, "m2", service="web"))
        assert state_of(followed, f"default/{second}") == EndpointsState.KNOWN
        followed.replace(appmodel(first, "m1", service="web"), appmodel(second, "m2"))
        assert state_of(followed, f"default/{first}") == EndpointsState.KNOWN


def test_changes_of_services_without_appmodel_are_not_remembered() -> None:
    followed = Followed()
    for number in range(10):
        item = endpointslice(f"s{number}", "10.0.0.1", service=f"service{number}")
        followed.put(item)
        followed.delete(item)
    followed.put(appmodel("service3"))
    assert state_of(followed, "default/service3") == EndpointsState.UNKNOWN


# --- no moment of emptiness ----------------------------------------------------------------------------------


@pytest.mark.fault(19)
def test_slice_recreated_between_two_takes_never_shows_as_empty() -> None:
    followed = Followed()
    item = endpointslice("s", "10.0.0.1", service="app")
    followed.put(appmodel("app"), item)
    followed.take()
    followed.delete(item)
    followed.put(endpointslice("t", "10.0.0.1", service="app", version=2))
    assert followed.take() == {}


def test_replaced_slice_switches_addresses_at_once() -> None:
    followed = Followed()
    item = endpointslice("s", "10.0.0.1", service="app")
    followed.put(appmodel("app"), item)
    followed.take()
    followed.delete(item)
    followed.put(endpointslice("t", "10.0.0.2", service="app"))
    (row,) = followed.take().values()
    assert [each.host for each in row.endpoints] == ["10.0.0.2"]


def test_list_with_other_slice_names_never_shows_as_empty() -> None:
    followed = Followed()
    followed.put(appmodel("app"), endpointslice("s", "10.0.0.1", "10.0.0.2", service="app"))
    followed.take()
    followed.replace(
        endpointslice("t", "10.0.0.1", service="app", version=5),
        endpointslice("u", "10.0.0.2", service="app", version=6),
    )
    assert followed.take() == {}


def test_appmodel_recreated_between_two_takes_keeps_its_endpoints() -> None:
    followed = Followed()
    followed.put(appmodel("app"), endpointslice("s", "10.0.0.1", service="app"))
    followed.take()
    followed.delete(appmodel("app"))
    followed.put(appmodel("app"))
    assert followed.take() == {}


def test_an_endpoint_moved_between_slices_never_disappears() -> None:
    followed = Followed()
    followed.put(appmodel("app"), endpointslice("s", "10.0.0.1", "10.0.0.2", service="app", version=1))
    followed.put(endpointslice("t", "10.0.0.3", "10.0.0.2", service="app", version=2))
    assert followed.addresses("app") == ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]
    followed.put(endpointslice("s", "10.0.0.1", service="app", version=3))
    assert followed.addresses("app") == ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]


# --- ports ---------------------------------------------------------------------------------------------------


def test_an_ambiguous_port_is_listed_until_it_is_chosen() -> None:
    followed = Followed()
    ports = "api:8080 grpc:9090"
    followed.put(appmodel("app"), endpointslice("s", "10.0.0.1", service="app", ports=ports))
    row = followed.row(Kind.ENDPOINTS, "default/app")
    assert row == EndpointsRow("default/app", EndpointsState.AMBIGUOUS_PORT, (), "api 8080, grpc 9090")
    listed = followed.row(Kind.INVALID, "Port default/app")
    assert (listed.kind, listed.namespace, listed.name, listed.last_good) == ("Port", "default", "app", False)
    assert listed.reason == (
        "ambiguous port: Service default/app has api 8080, grpc 9090: name one in the annotation iidp.com/port"
    )
    assert followed.index.invalid_count == 1
    followed.put(appmodel("app", port="grpc"))
    assert followed.addresses("app") == ["10.0.0.1:9090"]
    assert followed.row(Kind.INVALID, "Port default/app") is None
    assert followed.index.invalid_count == 0


def test_deleting_an_appmodel_removes_its_port_problem() -> None:
    followed = Followed()
    ports = "api:8080 grpc:9090"
    followed.put(appmodel("app"), endpointslice("s", "10.0.0.1", service="app", ports=ports))
    followed.take()
    followed.delete(appmodel("app"))
    changes = followed.take()
    assert changes[Kind.INVALID, "Port default/app"] is None
    assert changes[Kind.ENDPOINTS, "default/app"] is None


def test_the_default_port_is_used_if_an_appmodel_names_none() -> None:
    followed = Followed(default_port="grpc")
    followed.put(
        appmodel("app", "m1"),
        appmodel("twin", "m2", service="app", port="api"),
        endpointslice("s", "10.0.0.1", service="app", ports="api:8080 grpc:9090"),
    )
    assert followed.addresses("app") == ["10.0.0.1:9090"]
    assert followed.addresses("twin") == ["10.0.0.1:8080"]


def test_every_field_of_an_endpoint_reaches_its_row() -> None:
    followed = Followed()
    whole = msgspec.structs.replace(
        endpoint("fd00::1", ready=False, serving=True, terminating=True),
        zone="z1",
        node="n1",
        pod="app-0",
        hints=("z1", "z2"),
    )
    followed.put(appmodel("app"), endpointslice("s", whole, service="app", ports="http:8060"))
    (row,) = followed.row(Kind.ENDPOINTS, "default/app").endpoints
    assert msgspec.structs.astuple(row) == (
        "fd00::1",
        8060,
        False,
        True,
        True,
        "z1",
        "n1",
        "app-0",
        ("z1", "z2"),
    )


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "255.255.255.255", "10.1", "0x7f000001"),
        *("::1", "fe80::1", "ff02::1", "::", "::ffff:127.0.0.1", "fe80::1%eth0", "localhost"),
    ],
)
def test_impossible_pod_addresses_are_left_out_and_listed(address: str) -> None:
    index = Index(EndpointRules(special_addresses=False))
    index.apply(Changed("appmodels", appmodel("app")))
    item = endpointslice("s", address, "10.0.0.1", service="app")
    index.apply(Changed("endpointslices", item))
    changes = index.take_changes()
    (row,) = [row for key, row in changes.items() if key == (Kind.ENDPOINTS, "default/app")]
    assert row is not None
    assert [each.host for each in msgspec.msgpack.decode(row, type=EndpointsRow).endpoints] == ["10.0.0.1"]
    problem = changes[Kind.INVALID, "EndpointSlice default/s"]
    assert problem is not None
    assert address in msgspec.msgpack.decode(problem, type=InvalidRow).reason
    index.apply(Changed("endpointslices", endpointslice("s", "10.0.0.1", service="app")))
    assert index.take_changes()[Kind.INVALID, "EndpointSlice default/s"] is None
    index.apply(Changed("endpointslices", item))
    index.apply(Deleted("endpointslices", item.key))
    index.take_changes()
    assert index.invalid_count == 0


def test_special_addresses_are_used_if_allowed() -> None:
    followed = Followed()
    followed.put(appmodel("app"))
    followed.put(endpointslice("s", "127.0.0.1", "localhost", service="app"))
    assert {each.host for each in followed.row(Kind.ENDPOINTS, "default/app").endpoints} == {"127.0.0.1", "localhost"}
